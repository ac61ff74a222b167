"""Measure programs: quality on test data as it is and made harder, latency side by side."""
