"""Simulated traffic for an endpoint, and its figures as they come. Nothing in production imports this room."""
