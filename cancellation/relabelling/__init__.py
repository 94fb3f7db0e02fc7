"""Labelled events in; tasks for people out, and from what they say corrected labels and what these gain.

Start with `round.py` (which cases are asked) and `correction.py` (what comes of the answers). A market without labels
starts with `first_labels.py`.
"""
