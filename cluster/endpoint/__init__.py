"""A chat in; an answer out, from any server with OpenAI's interface, paced, paid for and written down.

Start with `client.py`; `purse.py` holds the budget, `ledger.py` remembers what was asked and answered,
`waiting.py` ends what takes too long.
"""
