"""Python packages that carry weights in; ordinary Hugging Face folders out.

Start with `packages.py`: which models there are, their licences, and where they come from.
"""
