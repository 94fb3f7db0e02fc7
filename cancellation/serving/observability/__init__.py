"""What the endpoint does in; metrics and traces out.

Start with `metrics.py`, which names every metric; `node_metrics.py` gives those of a whole node, `traces.py` the spans.
"""
