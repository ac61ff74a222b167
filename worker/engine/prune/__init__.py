"""Structured pruning: choose, cut, prove."""
