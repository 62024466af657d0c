"""Benchmarks: figures as ratios to something else in the same run."""
