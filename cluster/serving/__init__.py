"""Ray Serve as this project runs it: `service.py`; its Serve configuration, alerts and dashboards."""
