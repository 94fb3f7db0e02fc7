"""What tests measure by: a reference engine, a page as a browser shows it, texts that attack or that name a person.

Start with `engine_reference.py`.
"""
