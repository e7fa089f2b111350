"""Microbenchmarks; run one with `python -m benchmarks.NAME --help`."""
