"""Benchmarks: `python -m benchmarks` runs them all, `python -m benchmarks.NAME --help` tells of one."""
