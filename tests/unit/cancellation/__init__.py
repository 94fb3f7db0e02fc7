"""Tests of `cancellation/`, in its rooms.

Start with `decision/test_policy.py`.
"""
