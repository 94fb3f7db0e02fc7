"""An event in; the token ids that a model reads out.

Start with `timeline.py`, the event as sentences; `token_budget.py` chooses what is read of a long one, and
`encoding.py` puts text and features together. `profile.py` knows what texts looked like in training.
"""
