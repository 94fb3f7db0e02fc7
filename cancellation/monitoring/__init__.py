"""A day of the decision log → what changed, whether to retrain, and a page that says so. Start with `run.py`.

`log_files.py` reads, `counts.py` and `feedback.py` count, `parts.py` lets that happen on several machines, `texts.py`
has the model read a sample, `days.py` keeps each day's counts, `drift.py`, `findings.py` and `triggers.py` compare and
decide, `page.py` and `report.py` show, `forgetting.py` removes somebody.
"""
