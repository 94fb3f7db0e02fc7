"""An event in; 68 numbers out.

Start with `vector.py`, which fixes their order; the meaning of each stands in the file of its group: `fulfilment.py`,
`activity.py`, `communication.py`, `orders.py`. `measures.py` is the arithmetic they share.
"""
