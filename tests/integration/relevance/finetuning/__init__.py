"""The relevance jobs from end to end, resumed and killed. Start with `test_score.py`."""
