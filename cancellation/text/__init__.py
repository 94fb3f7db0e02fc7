"""An event in; the token ids that a model reads out.

Start with `timeline.py`; `encoding.py` puts text and features together.
"""
