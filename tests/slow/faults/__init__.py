"""The fault campaign: days of scores and verdicts while processes are killed, nodes go and the store misbehaves.

Start with `__main__.py` (the command and the table), then `scoring.py` (days of pairs and what is done to them),
`scoring_faults.py` (each fault; with modules of their own: `partition.py`, a node cut off, and `clock.py`),
`verdicts.py` (the endpoint) and `records.py` (the decision log alone). Before the first strike, `sabotage.py` sees that
the checks can fail. It runs in namespaces of its own: it kills nothing that it has not started.
"""
