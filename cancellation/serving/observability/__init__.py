"""What the endpoint tells of itself: metrics (`metrics.py`), those of a whole node, and traces."""
