"""Token ids of pairs in; log-probabilities of the four labels out, by transformers or by vLLM.

Start with `interface.py`, what every engine takes and gives; `prefix_rows.py` is how pairs share what they have in
common, `label_model.py` names a model and its prompt. The engines keep "engine" in their names: without it a file
would read as the library that it uses.
"""
