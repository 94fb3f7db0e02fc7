"""Training loops on Ray Train: who starts the workers (`train.py`), what a worker sees of it (`session.py`)."""
