"""Labelled events in; tasks for people out, and from what they say corrected labels and what these gain.

Start with `round.py` (which cases are asked) and `answers.py` (what comes back). A market without labels starts with
`first_labels.py`.
"""
