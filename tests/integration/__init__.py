"""A job's settings in; what it leaves behind out: on a local Ray, over real HTTP and S3, with killed processes.

Start with `relevance/test_score.py`.
"""
