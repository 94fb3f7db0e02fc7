"""Nothing in; figures for docs/benchmarks.md out, run by hand: never a timed test.

Start with `relevance.py` and `serving.py`; `make bench` and `make bench-serving` run them.
"""
