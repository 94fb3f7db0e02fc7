"""Labelled pairs in; a LoRA adapter out, judged on pairs that it never saw.

Start with `recipe.py` (what is trained, on what) and `run.py`. `finetune.py` is one training, `crossvalidation.py` and
`sweep.py` are many. `written_pairs.csv` holds machine-labelled pairs for `further`.
"""
