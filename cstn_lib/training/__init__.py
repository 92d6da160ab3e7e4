"""Fit and predict."""
