"""Examples in; moved weights out: the loop that fine-tuning and pre-training share.

Start with `loop.py`; `examples.py` is what a model is taught.
"""
