"""Scores of a test set, and the metrics that judge them."""
