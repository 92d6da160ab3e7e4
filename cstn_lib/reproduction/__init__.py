"""What makes the tables, figures and verdicts; a learner need not enter."""
