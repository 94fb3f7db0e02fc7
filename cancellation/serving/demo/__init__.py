"""Nothing in; simulated traffic for an endpoint out, and its figures as they come. Production does not import it.

Start with `traffic.py`; `live_figures.py` prints.
"""
