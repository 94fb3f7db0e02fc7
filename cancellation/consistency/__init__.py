"""Events and a judge in; how far it says the same of the same out.

`alikeness.py` compares answers with one another, `perturbations.py` makes events that mean the same; `run.py` asks.
"""
