"""A day of pairs in; a day of labels out, committed so that readers see all of it or none.

Start with `day.py` (the order of the steps), then `planning.py` (how shards are cut), `shard_steps.py` (a shard from
rows to labels) and `run.py` (the same on Ray). The rest says what happened: figures, checks, report.
"""
