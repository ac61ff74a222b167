"""Weights made from codes, in a program: put there, and found again."""
