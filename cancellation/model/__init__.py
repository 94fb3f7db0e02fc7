"""Token ids and features in; scores out.

Start with `fusion.py` (the network) and `verdict_model.py` (the same as it scores).
"""
