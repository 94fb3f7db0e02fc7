"""A real MLflow server that hands out artifacts itself (`mlflow-artifacts:/`)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path


class MlflowServer:
    """`mlflow server` on a port of its own; stopped with all its workers."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder, self._process = folder, None

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        files = ["--artifacts-destination", str(self._folder / "files"), "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), *store, *files]
        with (self._folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def wait(self, seconds: float = 240) -> None:
        """Wait until it answers; a busy machine starts it slowly."""
        deadline = time.monotonic() + seconds
        while not self.listens():
            assert time.monotonic() < deadline, self.log[-2000:]
            time.sleep(0.1)

    @property
    def log(self) -> str:
        """What it has said so far, a line for each request among it."""
        return (self._folder / "server.log").read_text()
