"""Labelled events and unlabelled chats in; weights out.

Start with `run.py`. `events.py` draws and encodes what is learned from, `loop.py` runs on every worker, and
`pretraining.py` trains an encoder on chats.
"""
