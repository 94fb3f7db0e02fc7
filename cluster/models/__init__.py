"""A model's name in; its files on this machine out, or a new version in the registry.

Start with `files.py` (names and files). `registry.py` knows versions and champions; `publishing.py` registers a folder
and moves the champion, or says why not.
"""
