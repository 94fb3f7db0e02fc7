"""Measurements with figures, run by hand: never a timed test."""
