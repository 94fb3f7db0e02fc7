"""Dialogues that were written one by one in; labelled events out, each as often as one likes in other circumstances.

Start with `dialogue.py` (what a dialogue is, and which ones are held out); `staging.py` gives it an order, a shop
and a month around it. `dialogues/` holds the texts; README.md says how they came about.
"""
