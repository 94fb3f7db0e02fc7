"""A backfill of events in; verdicts as parquet out, with reasons where asked for.

Start with `run.py`; `shard_steps.py` judges a shard, `explanations.py` says why.
"""
