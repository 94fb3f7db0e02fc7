"""Answers in; a decision log in object storage out, and what was decided lately.

Start with `decision_record.py` (what is logged of a request), then `decision_log.py` and `log_shipping.py`.
"""
