"""This machine's metrics as Ray exports them: of all replicas on it, not only of the one that is asked."""

from __future__ import annotations

import logging

import aiohttp
import ray

from cluster.logs import LastingFault

logger = logging.getLogger(__name__)
_fault = LastingFault(logger, "Ray's metrics")

_SECONDS = 3.0
_PREFIXES = ("ray_cancellation_", "ray_serve_")


async def node_metrics() -> str:
    """Fetch what Ray's agent on this machine exports, less what has nothing to do with serving."""
    node = ray.get_runtime_context().get_node_id()
    addresses = [
        f"http://{info['NodeManagerAddress']}:{info['MetricsExportPort']}/metrics"
        for info in ray.nodes()
        if info["NodeID"] == node
    ]
    if not addresses:
        return "# this machine is not in Ray's list\n"
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(addresses[0]) as answer:
            text = await answer.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        said = f"Ray's metrics cannot be fetched from {addresses[0]} ({type(error).__name__}); look at its agent"
        _fault.failed(said)
        return "# Ray's metrics agent on this machine does not answer\n"
    _fault.works()
    lines = [line for line in text.splitlines() if _is_ours(line)]
    return "\n".join(lines) + "\n"


def _is_ours(line: str) -> bool:
    if line.startswith("#"):
        parts = line.split(" ", 3)
        return len(parts) > 2 and parts[2].startswith(_PREFIXES)
    return line.startswith(_PREFIXES)
