"""Base, adapter and an evaluation in; a version that scoring may use out, champion if it earned it.

Start with `run.py`; `steps.py` merges, quantises and decides; `estimating.py` says what a run would take.
"""
