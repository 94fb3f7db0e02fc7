"""What tests measure by: a reference engine, a page as a browser shows it, texts that attack a verdict.

Start with `engine_reference.py`.
"""
