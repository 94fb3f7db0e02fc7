"""A real PostgreSQL server for tests, with passwords as in earnest."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


class PostgresFront:
    """What may stand before a server: forwards, stops forwarding, or keeps `options` to itself. It speaks no TLS."""

    def __init__(self, port: int, *, drops_options: bool = False) -> None:
        """Forward to a port of this machine; with `drops_options` as PgBouncer told to ignore that parameter."""
        self.silent = False
        """Whether it takes what it is sent and forwards nothing, as a firewall that forgot the connection."""
        self._server, self._drops_options = port, drops_options
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def in_front_of(self, url: str) -> str:
        """Give the address of a database by way of this."""
        port = self._listener.getsockname()[1]
        return f"{url.replace(f':{self._server}/', f':{port}/')}?sslmode=disable&gssencmode=disable"

    def close(self) -> None:
        """Let go of all."""
        for end in (self._listener, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, server = self._listener.accept()[0], socket.create_connection(("127.0.0.1", self._server))
                self._ends += [client, server]
                for here, there, begins in ((client, server, self._drops_options), (server, client, False)):
                    threading.Thread(target=self._forward, args=(here, there, begins), daemon=True).start()

    def _forward(self, here: socket.socket, there: socket.socket, begins: bool) -> None:
        with suppress(OSError):
            while data := here.recv(2**16):
                while self.silent:
                    time.sleep(0.01)
                there.sendall(_without_options(data) if begins else data)
                begins = False
            there.shutdown(socket.SHUT_RDWR)


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


def _without_options(startup: bytes) -> bytes:
    """A startup message: its length, the protocol's version, then name and value by turns, each ended by a zero."""
    words = startup[8:].split(b"\0")
    place = words.index(b"options")
    rest = startup[4:8] + b"\0".join(words[:place] + words[place + 2 :])
    return (len(rest) + 4).to_bytes(4) + rest


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
