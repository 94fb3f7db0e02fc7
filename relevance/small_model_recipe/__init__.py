"""Nothing but public texts in; the base of the small model that ships out.

Start with `pretraining.py`; `generated_pairs.py` draws the pairs, `tokenization.py` makes the tokeniser.
"""
