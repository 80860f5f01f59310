"""Benchmarks, one question each: `python -m benchmarks.NAME`. Not installed with the package."""
