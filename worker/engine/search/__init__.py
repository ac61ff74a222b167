"""Budgets that no count can meet: latency by measuring, accuracy by trying."""
