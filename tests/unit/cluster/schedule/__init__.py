"""What runs when: schedule files, and what they become on Kubernetes. Start with `test_plan.py`."""
