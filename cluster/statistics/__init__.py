"""Judged cases in; figures out, each with the interval that chance leaves it, and how far a probability can be trusted.

Start with `bootstrap.py` (draws of whole groups, figures with intervals); `shares.py` has exact bounds of shares,
`calibration.py` compares what was predicted with what was so, `temperature.py` makes a classifier's probabilities mean
what they say, `plots.py` draws.
"""
