"""Token ids of pairs in; log-probabilities of the four labels out, by transformers or by vLLM.

Start with `interface.py`, what every engine takes and gives; `prefix_rows.py` is how pairs share what they have in
common, `label_model.py` what names a model and its prompt. The engines keep their last names: a file called
`transformers.py` would read as the library.
"""
