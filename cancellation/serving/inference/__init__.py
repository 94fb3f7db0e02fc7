"""Encoded events in; scores out, in batches, from a model beside the gateway or behind a Serve handle.

Start with `batcher.py`; `shadow.py` sends copies to versions that decide nothing.
"""
