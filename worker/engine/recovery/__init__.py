"""Regain what pruning lost. One file for each step of a recipe."""
