"""Scores in; an action out, with the proof that it rests on.

Start with `policy.py`; `thresholds.py` is where a threshold is proven, `rules.py` what judges without a model.
"""
