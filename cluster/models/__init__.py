"""A model's name in; its files on this machine out (`files.py`); versions and champions (`registry.py`).

`publishing.py` brings a folder of files to the registry and moves the champion, or says why not.
"""
