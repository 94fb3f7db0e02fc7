"""Files in, cut into shards; every shard's output committed once, whatever dies on the way, then published whole.

Start with `job.py` (the order of the steps and what stops them), then `pool.py` (shards on Ray, through actors that may
die), `listing.py` (which files count) and `input_files.py` (which of them are read, and how they are cut).
"""
