"""Fit and predict, on one process or several."""
