"""The endpoint with its model apart, each on a pretend node of one core: what the hop between them costs.

    python -m tests.benchmarks.serving.apart [settings for jobs.cancellation_serve …]

Both nodes are processes of this machine, so no network lies between them, and the cores are shared with the load.
"""

from __future__ import annotations

import os
import sys

from cluster.serving.ports import own_ports
from cluster.serving.service import prepare_environment
from cluster.settings import load_settings
from jobs.cancellation_serve import ServeJob
from jobs.cancellation_serve import main as serve_verdicts

_APART = ["serving.colocated=false", "serving.gateways.num_cpus=1", "serving.models.num_cpus=1"]


def main(arguments: list[str]) -> None:
    """Start the nodes and serve until a signal says stop."""
    job = load_settings(ServeJob, [*arguments, *_APART])
    with own_ports(job.service.port) as ports:
        prepare_environment(job.service, ports=ports)
        from ray.cluster_utils import Cluster  # reads Ray's switches

        node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        cluster.add_node(**node)
        os.environ["RAY_ADDRESS"] = cluster.address
        try:
            serve_verdicts(job)
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
