"""An endpoint with pages of a test's own at the same origin: a page that clicks in another one may look into it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

_PASSED_ON = ("authorization", "content-type")
_PASSED_BACK = ("content-type", "content-security-policy")


@contextmanager
def same_origin(endpoint: str, pages: Mapping[str, str]) -> Iterator[str]:
    """Serve pages by path and everything else from an endpoint; give the address of both."""
    with httpx.Client(base_url=endpoint, timeout=60) as http:

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if (page := pages.get(self.path)) is not None:
                    return self._send(200, {"content-type": "text/html; charset=utf-8"}, page.encode())
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
                answer = http.request(self.command, self.path, content=body, headers=headers)
                kept = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
                return self._send(answer.status_code, kept, answer.content)

            do_POST = do_GET

            def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()
