"""The part of a Hugging Face hub's HTTP API that downloading a repository needs, serving folders of this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SHA = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves repositories, given as {"owner/name": folder}, each with one revision.

    Files of the `gated` one are for those who bring the token, or for nobody.
    """

    def __init__(self, repositories: dict[str, Path], *, gated: str = "", token: str = "") -> None:
        self.requests: list[str] = []
        self.num_bytes = 0
        """Sent as files' content."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, *, body: bool) -> None:
                path = self.path.partition("?")[0]
                server.requests.append(path)
                known = token and self.headers.get("Authorization") == f"Bearer {token}"
                if gated and not known and path.startswith(f"/{gated}/resolve/"):
                    return self._send(403, b"{}", body, "GatedRepo")
                content = self._find(path)
                if content is None:
                    return self._send(404, b"{}", body, "RepoNotFound")
                if body and "/resolve/" in path:
                    first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
                    content = content[int(first) : int(last) + 1 if last else None]
                    server.num_bytes += len(content)
                return self._send(206 if body and "Range" in self.headers else 200, content, body)

            def _find(self, path: str) -> bytes | None:
                for name, folder in repositories.items():
                    if path.startswith(f"/api/models/{name}/tree/"):
                        return json.dumps([_entry(file) for file in sorted(folder.iterdir())]).encode()
                    if path.startswith(f"/api/models/{name}"):
                        files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                        return json.dumps({"id": name, "sha": SHA, "siblings": files}).encode()
                    if path.startswith(f"/{name}/resolve/"):
                        return (folder / path.rpartition("/")[2]).read_bytes()
                return None

            def _send(self, status: int, content: bytes, body: bool, refusal: str = "") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", SHA)
                if refusal:
                    self.send_header("X-Error-Code", refusal)
                self.end_headers()
                if body:
                    self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()


def _entry(file: Path) -> dict:
    return {
        "type": "file",
        "path": file.name,
        "size": file.stat().st_size,
        "oid": hashlib.sha1(file.name.encode()).hexdigest(),
    }
