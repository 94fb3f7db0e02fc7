"""Tests of `cancellation/monitoring/`."""
