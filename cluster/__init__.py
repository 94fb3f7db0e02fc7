"""Infrastructure of both products, without a word of either: settings, storage, commits, Ray sessions, tracking.

Start with `settings.py` and `launch.py` (how a job starts), then `storage.py` and `commit.py` (how output appears
once).
"""
