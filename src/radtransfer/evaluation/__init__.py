"""Metrics, intervals, paired comparisons, and the report."""
