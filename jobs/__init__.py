"""Settings in; one finished job out. A file each: `python -m jobs.<domain>_<verb> [file.toml] [section.key=value]`.

Start with `relevance_score.py`; a job is a table of contents, its work is in the products' rooms.
"""
