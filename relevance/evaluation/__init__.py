"""Labels of people beside a model's in; figures with intervals, a page and plots out.

Start with `run.py`; `figures.py` holds the formulas.
"""
