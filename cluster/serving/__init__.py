"""An application's deployments in; a running Ray Serve out, with autoscaling, restarts and upgrades.

Start with `service.py`. `serve.yaml` is the configuration for a cluster, `grafana/` holds dashboards and alerts.
"""
