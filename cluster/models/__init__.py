"""A model's name in; its files on this machine out (`files.py`); versions and champions (`registry.py`)."""
