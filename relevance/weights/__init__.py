"""A model's folder in; a network out: adapter merged, linear layers in 8 bits where asked for, and written back.

Start with `loading.py`; `quantization.py` rounds, `checkpoint.py` reads and writes files.
"""
