"""Secateur: make trained neural networks smaller and faster, over HTTP."""
