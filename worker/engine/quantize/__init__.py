"""Store weights in few bits, and perhaps round activations."""

from worker.engine.quantize.quantize import quantize

__all__ = ["quantize"]
