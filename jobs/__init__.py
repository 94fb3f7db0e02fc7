"""Command-line jobs, one file each: `python -m jobs.<domain>_<verb> [file.toml] [section.key=value]`."""
