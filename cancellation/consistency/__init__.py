"""Events and a judge in; how far it says the same of the same out.

Start with `run.py`; `alikeness.py` compares answers, `perturbations.py` makes events that mean the same.
"""
