"""Labelled pairs in; a LoRA adapter out, judged on pairs that it never saw.

Start with `run.py`; `finetune.py` is one training, `crossvalidation.py` and `sweep.py` are many.
"""
