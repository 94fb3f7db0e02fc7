"""Create one day's RayJob from inside of Kubernetes: what a CronJob's pod does.

    python -m cluster.schedule.create_rayjob /etc/schedule/rayjob.json

`DAY` in the file becomes yesterday, in UTC, once: the RayJob's own retries stay with that day. One that is there
already, as after a pod that died behind its request, is as good as created. Plain Python: it starts in a second, where
nothing else of the image is loaded.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

DAY = "DAY"
_IDENTITY = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def create(content: str, day: str, *, server: str, token: str, ca_file: str | None) -> str:
    """Create it; give what came of it in a sentence.

    Args:
        content: The RayJob as JSON, with `DAY` for the day.
        day: Such as 2026-11-22.
        server: Address of Kubernetes' API.
        token: Of the pod's account.
        ca_file: Who signed the server's certificate; None: whom the machine trusts.

    Raises:
        RuntimeError: If Kubernetes refuses or does not answer.
    """
    ray_job = json.loads(content.replace(DAY, day))
    name, namespace = ray_job["metadata"]["name"], ray_job["metadata"]["namespace"]
    request = urllib.request.Request(
        f"{server}/apis/{ray_job['apiVersion']}/namespaces/{namespace}/rayjobs",
        json.dumps(ray_job).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60, context=ssl.create_default_context(cafile=ca_file)):
            return f"RayJob {name} is created"
    except urllib.error.HTTPError as error:
        if error.code == 409:
            return f"RayJob {name} is there already"
        said = error.read().decode(errors="replace")[:500]
        raise RuntimeError(f"RayJob {name}: Kubernetes answered {error.code}: {said}") from None
    except OSError as error:
        raise RuntimeError(f"RayJob {name}: Kubernetes at {server} does not answer ({error})") from None


def main(path: str) -> None:
    """Create the RayJob of a file for yesterday, with the pod's own identity."""
    day = datetime.now(UTC).date() - timedelta(days=1)
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    token = (_IDENTITY / "token").read_text(encoding="ascii").strip()
    content = Path(path).read_text(encoding="utf-8")
    server = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    print(create(content, str(day), server=server, token=token, ca_file=str(_IDENTITY / "ca.crt")))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except RuntimeError as problem:
        sys.exit(f"error: {problem}")
