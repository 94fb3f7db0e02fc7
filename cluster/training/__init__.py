"""A training loop and its settings in; a checkpoint and what the loop returned out, by Ray Train or in this process.

Start with `train.py`; `session.py` is what a loop sees of whoever runs it, `schedule.py` the learning rate of a
step, `estimate.py` what a training would take.
"""
