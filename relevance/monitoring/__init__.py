"""Two committed days of scores → what changed from one to the other, a page, and pairs for people. Start with `run.py`.

`scores.py` reads, `compare.py` counts pair by pair, `series.py` gives each earlier day's figures, `page.py` shows.
"""
