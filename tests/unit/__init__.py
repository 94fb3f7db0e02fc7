"""One function or class in; its behaviour through its public door out. No Ray, no network; the source's rooms.

Start with `test_guards.py`. `test_packaging.py`, `test_where_is.py` and `test_docs.py` look at the whole repository
too.
"""
