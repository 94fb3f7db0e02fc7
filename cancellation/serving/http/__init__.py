"""HTTP requests in; JSON answers and refusals out.

Start with `endpoint.py`; `tokens.py` says who may call what.
"""
