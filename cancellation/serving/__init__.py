"""The endpoint: an event comes in over HTTP, a verdict goes out and is on record."""
