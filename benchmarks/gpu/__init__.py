"""Benchmarks that need a GPU; each can be rehearsed on a CPU."""
