"""Evaluation: full ranking, the ranks that are stored, and the metrics that follow from them."""
