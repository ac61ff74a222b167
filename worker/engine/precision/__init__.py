"""Compute in a floating-point type of fewer bits."""

from worker.engine.precision.casting import cast

__all__ = ["cast"]
