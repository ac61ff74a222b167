"""The engine: PyTorch and mathematics. Knows no queue, no database and no HTTP."""
