"""Tests of `cluster/`, in its rooms.

Start with `test_commit.py`.
"""
