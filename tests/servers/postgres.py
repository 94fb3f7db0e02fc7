"""A real PostgreSQL server for tests, with passwords as in earnest."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg

_USER = "verdicts"
_PLACES = "/usr/lib/postgresql/*/bin"
"""Where Debian puts what is not for everybody's PATH."""


class PostgresServer:
    """A server on a free port of this machine; databases of the tests' own in it."""

    def __init__(self) -> None:
        """Make a cluster and start it. PostgreSQL does not run as root: then Debian's own user for it runs it."""
        programs, user = _programs(), _user()
        self._folder = _folder()
        password, self.port = secrets.token_hex(16), _free_port()
        password_file, data = self._folder / "password", self._folder / "data"
        password_file.write_text(password)
        password_file.chmod(0o644)
        made = subprocess.run(
            [programs / "initdb", "-D", data, "-U", _USER, "-A", "scram-sha-256", f"--pwfile={password_file}", "-N"],
            capture_output=True,
            text=True,
            cwd=self._folder,
            **user,
        )
        assert made.returncode == 0, made.stderr
        self.password_file = self._folder / "pgpass"
        self.password_file.write_text(f"127.0.0.1:*:*:{_USER}:{password}\n")
        self.password_file.chmod(0o600)
        self._process = _start(data, self.port)
        os.environ["PGPASSFILE"] = str(self.password_file)
        self._wait()

    def database(self) -> str:
        """Make an empty database; give its address."""
        name = f"t{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str) -> str:
        """Give the address of a database."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def cut_off(self, url: str) -> None:
        """End all connections to a database, and let nobody in again."""
        name = url.rpartition("/")[2]
        self.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    def let_in(self, url: str) -> None:
        """End `cut_off`."""
        self.execute(f"ALTER DATABASE {url.rpartition('/')[2]} ALLOW_CONNECTIONS true")

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Stop the server and all that it runs in the middle of whatever they do: nothing ends, nothing answers."""
        server = self._process.pid
        _stop(server)  # first: stopped, it starts no other behind the list of its children
        children = [*map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split())]
        for child in children:
            _stop(child)
        try:
            yield
        finally:
            for process in (*children, server):
                os.kill(process, signal.SIGCONT)

    @contextmanager
    def standby(self) -> Iterator[str]:
        """Run a standby that follows this server, which it only reads; give its host and port."""
        folder, port = _folder(), _free_port()
        copy = [_programs() / "pg_basebackup", "-D", folder / "data", "-R", "-c", "fast", "-d", self.url("postgres")]
        password_file = folder / "pgpass"
        shutil.copy(self.password_file, password_file)
        password_file.chmod(0o600)
        if _user():
            shutil.chown(password_file, "postgres", "postgres")
        environment = {**os.environ, "PGPASSFILE": str(password_file)}
        made = subprocess.run(copy, capture_output=True, text=True, cwd=folder, env=environment, **_user())
        assert made.returncode == 0, made.stderr
        process, deadline = _start(folder / "data", port), time.monotonic() + 60
        try:
            while "ready to accept read-only connections" not in (said := (folder / "log").read_text()):
                assert process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            shutil.rmtree(folder, ignore_errors=True)

    def execute(self, statement: str) -> None:
        """Run a statement as the owner of everything."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def stop(self) -> None:
        """End the server, whoever is still connected (SIGTERM would wait for all), and remove its files."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                said = (self._folder / "log").read_text()
                assert self._process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.1)


def _user() -> dict[str, Any]:
    """Whom a server is run by."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}


def _folder() -> Path:
    """Make a folder for a server."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if _user():
        shutil.chown(folder, "postgres", "postgres")
    return folder


def _start(data: Path, port: int) -> subprocess.Popen[bytes]:
    """Start a server on its data, its log beside them."""
    log = (data.parent / "log").open("wb")
    options = ["-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]  # -F: nothing of it need survive a crash
    command = [_programs() / "postgres", "-D", data, *options]
    return subprocess.Popen(command, stdout=log, stderr=log, cwd=data.parent, **_user())


def _stop(process: int) -> None:
    """Send SIGSTOP, and wait until it holds: until then a process runs on."""
    os.kill(process, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while psutil.Process(process).status() not in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}:
        assert time.monotonic() < deadline, "it does not stop"
        time.sleep(0.001)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _programs() -> Path:
    """Find the folder of a server's programs; without any the tests fail, they do not skip."""
    path = os.pathsep.join([os.environ["PATH"], *(str(folder) for folder in sorted(Path("/").glob(_PLACES[1:])))])
    found = shutil.which("initdb", path=path)
    assert found, "no PostgreSQL server: run .ci/install-postgres, or put initdb and postgres on PATH"
    return Path(found).resolve().parent
