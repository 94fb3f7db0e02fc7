"""A seller's appeal: a case whose entries are appended and never changed, and the reasons that the seller is owed.

Start with `case.py`; `store.py` keeps cases, `statement.py` writes the statement of reasons.
"""
