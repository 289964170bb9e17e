"""Ours and its peers, taken in turns in the same run; see `python -m benchmarks.speed --help`."""
