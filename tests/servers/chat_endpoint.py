"""A server with OpenAI's chat interface that misbehaves on command: refuses, hangs up, falls silent, talks garbage."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CASE = re.compile(r"case-\d+")
ANSWER = (
    "<verdict>",
    "ind",
    "uced",
    "</verdict>\n<decision_factors>",
    "chat.asked_to_cancel",
    "</decision_factors>\n<reasoning>",
    "The seller asked.",
    "</reasoning>",
)
ALTERNATIVES = {"ind": 0.8, "not": 0.15, "un": 0.05}
PROMPT_TOKENS, CACHED_TOKENS = 500, 400
_TOKENS = {
    "off": ("I ", "would ", "say ", "so."),
    "reasoning_first": ("<reasoning>", ANSWER[6], "</reasoning>\n", *ANSWER[:5], "</decision_factors>"),
    "verdict": ANSWER[:4],
    "cut_factors": (*ANSWER[:4], "chat.asked_to_cancel, chat.out_of"),
    "halves": (*ANSWER[:6], "The seller \ud83d", "\ude00 asked.", ANSWER[-1]),
}


_CASES: dict[str, Callable[[int], str]] = {
    "case-1": lambda number: "refuse:429" if number == 0 else "answer",
    "case-2": lambda number: "refuse:500" if number < 2 else "answer",
    "case-3": lambda number: "half" if number == 0 else "answer",
    "case-4": lambda number: "garbage",
    "case-5": lambda number: "silence",
    "case-6": lambda number: "off",
    "case-7": lambda number: "plain",
    "case-8": lambda number: "refuse:400",
}


def misbehave(case: str, number: int) -> str:
    """Give each of the first cases a way of its own to go wrong, for a while or always; all others are answered."""
    return _CASES.get(case, lambda _: "answer")(number)


class ChatServer:
    """Answers every chat alike, unless `behave` names another behaviour for a case and the number of the try.

    A case is what `case-<number>` says in the last message. Behaviours: answer, refuse:<status>, half, garbage, html,
    silence, comments (server-sent ones, without end), hang_up, plain (no distribution, no usage), off (text that is no
    verdict), slow:<seconds per token>, cut (the whole answer, then the connection breaks), ended:<finish reason>,
    null_usage, halves (an emoji in two pieces), reasoning_first, verdict
    (nothing behind it), cut_factors (an end within them), given (the chunks in `given`). Half an answer may say its
    length in tokens: half:5.
    """

    def __init__(self, behave: Callable[[str, int], str] | None = None, *, seconds_per_token: float = 0.0) -> None:
        self.behave = behave or (lambda case, number: "answer")
        self.asked: Counter[str] = Counter()
        """Requests by case."""
        self.answered: Counter[str] = Counter()
        """Whole answers by case: what a real server would have charged for."""
        self.bodies: list[dict[str, Any]] = []
        self.most_at_once = 0
        self.retry_after, self.error = "0.01", {"message": "no"}
        """What refusals say: 429 when to come again, all of them why."""
        self.given: list[Any] = []
        self.closing = threading.Event()
        self._at_once, self._lock, self._pause = 0, threading.Lock(), seconds_per_token
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        body = json.loads(http.rfile.read(int(http.headers["Content-Length"])))
        found = CASE.search(body["messages"][-1]["content"])
        case = found[0] if found else "other"
        with self._lock:
            number = self.asked[case]
            self.asked[case] += 1
            self.bodies.append(body)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self._behave(http, case, self.behave(case, number))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client went away
        finally:
            with self._lock:
                self._at_once -= 1

    def _behave(self, http: BaseHTTPRequestHandler, case: str, behaviour: str) -> None:
        kind, _, status = behaviour.partition(":")
        if kind == "refuse":
            self._refuse(http, int(status))
        elif kind == "html":
            self._whole(http, b"<html>busy</html>", "text/html")
        elif kind == "silence":
            self.closing.wait(30)
        elif kind == "hang_up":
            http.close_connection = True
        elif kind == "comments":
            self._begin(http)
            while not self.closing.wait(0.05):
                http.wfile.write(b": still thinking\n\n")
                http.wfile.flush()
        else:
            self._stream(http, case, kind, status)

    def _refuse(self, http: BaseHTTPRequestHandler, status: int) -> None:
        content = json.dumps({"error": self.error}).encode()
        http.send_response(status)
        if status == 429:
            http.send_header("Retry-After", self.retry_after)
        http.send_header("Content-Length", str(len(content)))
        http.end_headers()
        http.wfile.write(content)

    def _whole(self, http: BaseHTTPRequestHandler, content: bytes, kind: str) -> None:
        http.send_response(200)
        http.send_header("Content-Type", kind)
        http.send_header("Content-Length", str(len(content)))
        http.end_headers()
        http.wfile.write(content)

    def _begin(self, http: BaseHTTPRequestHandler) -> None:
        http.send_response(200)
        http.send_header("Content-Type", "text/event-stream")
        http.send_header("Connection", "close")
        http.end_headers()
        http.close_connection = True

    def _stream(self, http: BaseHTTPRequestHandler, case: str, kind: str, amount: str) -> None:
        pause = float(amount) if kind == "slow" else self._pause
        self._begin(http)
        if kind == "given":
            for chunk in (*self.given, "[DONE]"):
                self._event(http, chunk if isinstance(chunk, str) else json.dumps({**_base(), **chunk}))
            return
        tokens = _TOKENS.get(kind, ANSWER)
        for number, token in enumerate(tokens):
            if kind == "half" and number == int(amount or 3):
                return
            if number == 3 and kind == "garbage":
                self._event(http, "{not json")
                return
            time.sleep(pause)
            self._event(http, json.dumps(_chunk(token, plain=kind == "plain")))
        if kind == "cut":
            return
        end = _end(amount if kind == "ended" else "stop")
        usage = {**_usage(len(tokens)), **({"completion_tokens": None} if kind == "null_usage" else {})}
        self._event(http, json.dumps(end if kind == "plain" else {**end, "usage": usage}))
        with self._lock:
            self.answered[case] += 1
        self._event(http, "[DONE]")

    def _event(self, http: BaseHTTPRequestHandler, data: str) -> None:
        http.wfile.write(f"data: {data}\n\n".encode())
        http.wfile.flush()


def _chunk(token: str, *, plain: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": {"content": token}, "finish_reason": None}
    if not plain:
        shares: Mapping[str, float] = ALTERNATIVES if token == "ind" else {token: 1.0}
        listed: Sequence[dict[str, Any]] = [
            {"token": one, "bytes": list(one.encode("utf-8", "replace")), "logprob": math.log(share)}
            for one, share in shares.items()
        ]
        choice["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}]}
    return {**_base(), "choices": [choice]}


def _end(reason: str) -> dict[str, Any]:
    return {**_base(), "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def _usage(num_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": num_tokens,
        "total_tokens": PROMPT_TOKENS + num_tokens,
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
    }


def _base() -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
