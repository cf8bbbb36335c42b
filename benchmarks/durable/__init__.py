"""The sections of `benchmarks/durability.py`."""
