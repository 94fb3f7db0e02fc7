"""One event in; one verdict out, on record before it is sent, or a refusal.

Start with `gateway.py`; `admission.py` refuses under overload.
"""
