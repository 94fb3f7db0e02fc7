"""A real S3 API over HTTP (moto's server) whose requests a test can fail or hold at a chosen point."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

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

    def takes(self, method: str, path: str) -> bool:
        return self.times > 0 and method == self.method and self.pattern.search(path) is not None


class S3Server:
    """Serves buckets from memory on a loopback port."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._handle, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.requests: list[tuple[str, str]] = []
        self._creating = threading.Lock()
        self.num_bytes = 0
        """Sent in answers."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()

    def environment(self) -> dict[str, str]:
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}

    @contextmanager
    def fail(self, method: str, pattern: str, *, status: int, times: float, apply: bool = False) -> Iterator[Fault]:
        """Answer with a status, `apply`: after the request took effect, as when an answer is lost."""
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
    def _installed(self, fault: Fault) -> Iterator[None]:
        self._faults.append(fault)
        try:
            yield
        finally:
            self._faults.remove(fault)

    def _handle(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if environ.get("QUERY_STRING"):
            path = f"{path}?{environ['QUERY_STRING']}"
        self.requests.append((method, path))
        with self._lock:
            fault = next((fault for fault in self._faults if fault.takes(method, path)), None)
            if fault is not None:
                fault.times -= 1
        if fault is None:
            # The store behind it looks and then writes; S3 does both in one, so that one creator of many wins.
            with self._creating if "HTTP_IF_NONE_MATCH" in environ else nullcontext():
                answer = list(self._app(environ, start_response))
            with self._lock:
                self.num_bytes += sum(map(len, answer))
            return answer
        fault.reached.set()
        if fault.status is None:
            fault.released.wait(timeout=120)
            return self._app(environ, start_response)
        if fault.apply:
            list(self._app(environ, lambda *_: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        code = {409: "ConditionalRequestConflict", 500: "InternalError", 503: "SlowDown"}.get(fault.status, "Error")
        body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        start_response(f"{fault.status} {code}", headers)
        return [body]
