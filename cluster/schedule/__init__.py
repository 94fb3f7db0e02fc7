"""A file that says what runs when → days run by it, Airflow DAGs, Kubernetes CronJobs. Start with `plan.py`.

`runner.py` runs days in order, here or through Ray's job API (`ray_jobs.py`); `dag_files.py` and `cronjobs.py` render.
`airflow_dags.py` runs inside Airflow, `create_rayjob.py` inside a CronJob: both need nothing of this project.
"""
