"""Nothing in; the base of the small model that ships out: a generated catalogue, a tokeniser, pre-training.

Start with `pretraining.py`.
"""
