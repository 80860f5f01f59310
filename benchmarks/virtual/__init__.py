"""SIMULATED language-model engines with continuous batching on a virtual clock, for benchmarks that need no GPU."""
