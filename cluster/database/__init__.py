"""One database behind one small interface: a file of this machine (SQLite), or a server for many (PostgreSQL).

Start with `interface.py`; `sqlite.py` and `postgres.py` keep it.
"""
