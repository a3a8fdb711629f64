"""Benchmarks of the pipeline; run from a checkout, not installed."""
