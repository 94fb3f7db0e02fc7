"""The verdict endpoint under load.

`__main__.py` measures it beside a plain server (`peer.py`), `shadow.py` with a shadow; `load.py` plays the callers.
"""
