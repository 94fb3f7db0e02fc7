"""What tests start and talk to: an S3 API, a model hub, endpoints, a driver to be killed.

Start with `s3.py`.
"""
