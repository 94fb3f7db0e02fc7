"""What stands between clients and a PostgreSQL server: forwards, stops forwarding, or keeps `options` to itself."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress


class PostgresFront:
    """Listens on a port of its own. Without TLS: it reads how a client begins."""

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


def _without_options(startup: bytes) -> bytes:
    """A startup message: its length, the protocol's version, then name and value by turns, each ended by a zero."""
    words = startup[8:].split(b"\0")
    place = words.index(b"options")
    rest = startup[4:8] + b"\0".join(words[:place] + words[place + 2 :])
    return (len(rest) + 4).to_bytes(4) + rest
