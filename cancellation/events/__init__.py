"""JSON or parquet in; a checked cancellation event out, the same for a request and for a backfill.

Start with `event.py`; `factors.py` names the verdicts and decision factors.
"""
