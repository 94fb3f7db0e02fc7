"""What tests measure by.

A reference engine, a page as a browser shows it, texts that attack a verdict or lead to a person.

Start with `engine_reference.py`.
"""
