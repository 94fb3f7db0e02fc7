"""Tests. Start with `unit/test_guards.py`, the rules of the repository.

`unit/` has the rooms of the source, `integration/` runs jobs on a real Ray, `slow/` needs a GPU, downloads or minutes;
`benchmarks/` measures by hand. `builders/`, `servers/` and `measures/` are what tests share.
"""
