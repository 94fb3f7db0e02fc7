"""Guidelines, product and query in; token ids out, in the order that lets prompts share their beginning.

Start with `prompts.py`; `guidelines.toml` holds the rules that annotators and prompt share.
"""
