"""A few arguments in; what tests read or ask out: days, events, pairs, annotations, engines and tiny models.

Start with `fakes.py`, the engines and models that only pretend.
"""
