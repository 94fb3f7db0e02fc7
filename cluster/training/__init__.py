"""Training loops on Ray Train (`train.py`) and what makes a classifier's scores mean what they say."""
