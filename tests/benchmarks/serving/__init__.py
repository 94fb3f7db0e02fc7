"""The verdict endpoint under load.

`__main__.py` measures it beside a plain server (`peer.py`), `shadow.py` with a shadow; `processes.py` starts and
loads a server, `load.py` plays the callers.
"""
