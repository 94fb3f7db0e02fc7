"""Cases go out to people as tasks of Label Studio; what they chose, and by which rules, comes back.

Start with `label_studio.py`.
"""
