"""A seed in; cancellations with a known cause out. Invented: no public data of this kind exists.

Start with `simulator.py`; what sellers do is in `seller_tactics.py` and `seller_neglect.py`, how things are said in
`phrases/`.
"""
