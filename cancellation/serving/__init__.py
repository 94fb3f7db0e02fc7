"""The endpoint: an event in over HTTP; a verdict out, on record before it is sent.

Start with `app.py` (what is deployed), then `replica.py` (one gateway replica) and `answering/gateway.py` (one
request).
"""
