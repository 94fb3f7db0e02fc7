"""Files of query-product pairs in; checked rows, product groups and shards out.

Start with `pair.py`, which says what a pair is and what makes a row unusable; `files.py` reads them from storage.
"""
