"""Take layers apart into products of smaller ones."""

from worker.engine.factorize.step import factorize

__all__ = ["factorize"]
