"""A real S3 API over HTTP (moto's server) whose requests a test can fail or hold at a chosen point."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",  # pragma: allowlist secret
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass
class Fault:
    """What happens to requests of a method whose path matches, for a number of times."""

    method: str
    pattern: re.Pattern[str]
    times: float
    status: int | None
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    apply: bool = False
    delay: float = 0.0

    def takes(self, method: str, path: str) -> bool:
        return self.times > 0 and method == self.method and self.pattern.search(path) is not None


class S3Server:
    """Serves buckets from memory on a port of its own."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(host, 0, self._handle, threaded=True)
        self.url = f"http://{host}:{self._server.server_port}"
        self.requests: list[tuple[str, str]] = []
        self._creating = threading.Lock()
        self.num_bytes = 0
        """Sent in answers."""
        self.refuses_to_create = True
        """False: it writes over what is there though told not to (`If-None-Match`), as some stores do."""
        self.revoked_key: str | None = None
        """An access key that is let in no more."""
        self.listing_delay = 0.0
        """Seconds for which a new object stands in no listing, as in stores that are less strict than S3."""
        self.writes_left = float("inf")
        """Requests that change something until all of them are refused, as of a process that dies there."""
        self.num_listed_late = 0
        """Listings that left something out for it."""
        self._made: dict[str, float] = {}
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()

    def environment(self) -> dict[str, str]:
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}

    @contextmanager
    def fail(self, method: str, pattern: str, *, status: int, times: float, apply: bool = False) -> Iterator[Fault]:
        """Answer with a status, `apply`: after the request took effect, as when an answer is lost.

        With 200 it is somebody else's page, as of a proxy to which the store's address leads.
        """
        fault = Fault(method, re.compile(pattern), times, status, apply=apply)
        with self._installed(fault):
            yield fault

    @contextmanager
    def hold(self, method: str, pattern: str, *, times: float = 1) -> Iterator[Fault]:
        """Keep requests waiting before they take effect, until `released` is set; then they go through."""
        fault = Fault(method, re.compile(pattern), times, None)
        with self._installed(fault):
            try:
                yield fault
            finally:
                fault.released.set()

    @contextmanager
    def slow(self, method: str, pattern: str, seconds: float) -> Iterator[Fault]:
        """Keep all matching requests waiting so long."""
        fault = Fault(method, re.compile(pattern), float("inf"), None, delay=seconds)
        with self._installed(fault):
            yield fault

    @contextmanager
    def _installed(self, fault: Fault) -> Iterator[None]:
        self._faults.append(fault)
        try:
            yield
        finally:
            self._faults.remove(fault)

    def _handle(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if not self.refuses_to_create:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if environ.get("QUERY_STRING"):
            path = f"{path}?{environ['QUERY_STRING']}"
        self.requests.append((method, path))
        with self._lock:
            fault = next((fault for fault in self._faults if fault.takes(method, path)), None)
            if fault is not None:
                fault.times -= 1
            elif self.revoked_key and f"Credential={self.revoked_key}/" in environ.get("HTTP_AUTHORIZATION", ""):
                fault = Fault(method, re.compile(""), 0, 403)
            elif method != "GET" and method != "HEAD":
                self.writes_left -= 1
                if self.writes_left < 0:
                    fault = Fault(method, re.compile(""), 0, 403)
        if fault is None and self.listing_delay and method == "GET" and "list-type" in path:
            return self._as_listed_late(environ, start_response)
        if fault is None:
            # The store behind it looks and then writes; S3 does both in one, so that one creator of many wins.
            with self._creating if "HTTP_IF_NONE_MATCH" in environ else nullcontext():
                answer = list(self._app(environ, start_response))
            if method == "PUT":
                self._made.setdefault(environ["PATH_INFO"], time.monotonic())
            with self._lock:
                self.num_bytes += sum(map(len, answer))
            return answer
        fault.reached.set()
        if fault.status is None:
            fault.released.wait(timeout=fault.delay or 120)
            return self._app(environ, start_response)
        if fault.apply:
            list(self._app(environ, lambda *_: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        codes = {403: "ExpiredToken", 409: "ConditionalRequestConflict", 500: "InternalError", 503: "SlowDown"}
        code = codes.get(fault.status, "Error")
        body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        if fault.status == 200:
            body = b"<html><body>Sign in to this network</body></html>"
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        start_response(f"{fault.status} {code}", headers)
        return [] if method == "HEAD" else [body]

    def _as_listed_late(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        """Leave what is too new out of a listing."""
        head: list[Any] = []
        body = b"".join(self._app(environ, lambda *given: head.extend(given))).decode()
        bucket = environ["PATH_INFO"].strip("/").partition("/")[0]
        since = time.monotonic() - self.listing_delay

        def kept(found: re.Match[str]) -> str:
            return "" if self._made.get(f"/{bucket}/{unquote(found[1])}", 0.0) > since else found[0]

        data = re.sub(r"<Contents>.*?<Key>(.*?)</Key>.*?</Contents>", kept, body, flags=re.DOTALL).encode()
        self.num_listed_late += data != body.encode()
        length = ("Content-Length", str(len(data)))
        start_response(head[0], [pair for pair in head[1] if pair[0].lower() != "content-length"] + [length])
        return [data]
