"""Labelled events and unlabelled chats in; weights out.

Start with `run.py`; `loop.py` runs on every worker.
"""
