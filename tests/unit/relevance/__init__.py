"""Tests of `relevance/`, in its rooms.

Start with `scoring/test_shard_steps.py`.
"""
