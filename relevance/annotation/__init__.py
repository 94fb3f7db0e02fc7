"""Scored pairs in; people's labels out, with how far they agree and what a lead has to settle.

Start with `round.py` (what is given out) and `agreement_report.py` (what comes back).
"""
