"""A whole endpoint, asked over HTTP while things around it fail. Start with `test_live.py`."""
