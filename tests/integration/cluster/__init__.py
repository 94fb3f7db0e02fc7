"""What both products rest on, against the real thing: Ray's actors and jobs API, an MLflow server.

Start with `test_actor_pool.py`.
"""
