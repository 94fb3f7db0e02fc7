"""The Kubernetes manifests: their shapes, their mounts, and that all they name exists.

Start with `test_manifests.py`.
"""
