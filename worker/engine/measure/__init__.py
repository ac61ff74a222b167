"""Measure programs: quality on test data, latency side by side."""
