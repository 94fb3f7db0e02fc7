"""A training loop in; its best checkpoint out, by Ray Train or in this process.

Start with `train.py`; `session.py` is what a loop sees, and `temperature.py` calibrates a classifier.
"""
