"""A proxy in front of an HTTP server that now and then answers itself, as one does while what is behind it restarts."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Fault:
    """An answer in the place of the server's."""

    status: int
    body: bytes = b"<html><body>Bad Gateway</body></html>"
    missing_bytes: int = 0
    """Bytes that the header promises beyond the body: the connection ends in the middle."""


class FlakyProxy(ThreadingHTTPServer):
    """Passes requests on, but for the first ones whose path begins as `faults` say."""

    def __init__(self, behind: str, faults: Iterable[tuple[str, Fault]]) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.behind = behind
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults = deque(faults)
        """Request line's beginning, such as "GET /api", and what it gets; each once, in this order."""


class _Answers(BaseHTTPRequestHandler):
    server: FlakyProxy

    def _answer(self) -> None:
        faults = self.server.faults
        if faults and f"{self.command} {self.path}".startswith(faults[0][0]):
            fault = faults.popleft()[1]
            self._say(fault.status, fault.body, len(fault.body) + fault.missing_bytes)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        passed_on = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
        request = urllib.request.Request(self.server.behind + self.path, body, passed_on, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                content = answer.read()
                self._say(answer.status, content, len(content))
        except urllib.error.HTTPError as error:
            content = error.read()
            self._say(error.code, content, len(content))

    do_GET = do_POST = _answer

    def _say(self, status: int, content: bytes, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def flaky_proxy(behind: str, faults: Iterable[tuple[str, Fault]]) -> Iterator[FlakyProxy]:
    """Run one in front of `behind` and end it."""
    with FlakyProxy(behind, faults) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
