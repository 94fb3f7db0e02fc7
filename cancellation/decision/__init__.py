"""Scores in; an action out, with the proof that it rests on.

Start with `policy.py`. `thresholds.py` proves a threshold, `calibration_run.py` writes the policy, `publishing.py`
decides who becomes champion, and `rules.py` answers without a model.
"""
