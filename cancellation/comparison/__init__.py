"""Labelled events in; the table of approaches out, from rigid rules to the fusion model.

Start with `approaches.py`.
"""
