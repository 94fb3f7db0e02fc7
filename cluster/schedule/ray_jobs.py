"""A command as a Ray job, through the HTTP interface that `ray job submit` uses too.

Plain Python without a package: it also lies beside Airflow's DAGs, where nothing of this project is installed.
"""

from __future__ import annotations

import http.client
import json
import re
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

FAILS_AGAIN = (2, 3)
"""Exit statuses of a job whose input or settings are wrong, and of one that is done but does not look fine."""

_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_NOT_NOW = (429, 502, 503, 504)
"""What a proxy, or a head that is busy or starting, answers for a while."""
_REASON_CHARACTERS = 300
_SAID_CHARACTERS = 20_000
"""Of the end of a job's log that are passed on; all of it stays with Ray."""


class RayJobError(RuntimeError):
    """A job ended without success; `exit_code` is that of its process, or None where Ray knows none."""

    def __init__(self, text: str, exit_code: int | None) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class RayJobs:
    """The jobs of one cluster.

    A name stands for one piece of work: a job of that name and command that is running is joined, not started a second
    time. So a caller that died may simply come again. One of another command, as where two schedules with other places
    share a cluster, is not taken for it. One that has ended stays, with its log, and the next attempt is `name-2`:
    Ray 2.60 may take an id that is used again for the job that it was before, and call it dead.
    """

    def __init__(
        self, address: str, token: str | None = None, *, poll_seconds: float = 5.0, patience_seconds: float = 300.0
    ) -> None:
        """Name a cluster.

        Args:
            address: Of the dashboard, such as http://127.0.0.1:8265.
            token: `RAY_AUTH_TOKEN` of the cluster, where it asks for one.
            poll_seconds: Between two looks at a job.
            patience_seconds: For which a head is asked again that does not answer, or behind a proxy that does.
        """
        self._address = address.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._poll, self._patience = poll_seconds, patience_seconds

    def run(
        self, name: str, entrypoint: str, *, runtime_env: Mapping[str, Any] | None = None,
        say: Callable[[str], object] = print,
    ) -> None:  # fmt: skip
        """Submit a command, or join it, and wait for its end.

        Raises:
            RayJobError: If it ended without success.
            RuntimeError: If a job of that name runs another command, the cluster refuses, or it does not answer for
                `patience_seconds`.
        """
        attempts = self._attempts(name)
        running = [job for job in attempts if job["status"] not in _ENDED]
        if running:
            submission_id = running[0]["submission_id"]
            if running[0]["entrypoint"] != entrypoint:
                raise RuntimeError(
                    f"{submission_id} is running another command ({running[0]['entrypoint']}): run this one when it "
                    f"has ended, or on another cluster: {entrypoint}"
                )
            say(f"{submission_id} is running already: waiting for it")
        else:
            # Of attempts that somebody deleted the number is gone, not free: those behind them have theirs.
            last = max((_number(name, job["submission_id"]) for job in attempts), default=0)
            submission_id = f"{name}-{last + 1}" if last else name
            self._submit(submission_id, entrypoint, runtime_env)
            say(f"{submission_id} submitted: {entrypoint}")
        found = self._wait(submission_id)
        say(self._log(submission_id))
        if found["status"] != "SUCCEEDED":
            code = found.get("driver_exit_code")
            how = f"status {code}" if code is not None else found.get("message") or "no reason given"
            raise RayJobError(f"{submission_id}: {found['status'].lower()}, {how}; its log is above", code)

    def submit(
        self, name: str, entrypoint: str, *, runtime_env: Mapping[str, Any] | None = None,
        say: Callable[[str], object] = print,
    ) -> str:  # fmt: skip
        """Submit a command and do not wait for it; give its submission id.

        What the cluster knows under that name, even if it has ended, stays the only one.

        Raises:
            RuntimeError: If the cluster refuses, or does not answer for `patience_seconds`.
        """
        for known in self._attempts(name):
            say(f"{known['submission_id']} was submitted before: {known['status'].lower()}")
            return known["submission_id"]
        self._submit(name, entrypoint, runtime_env, once=True)
        say(f"{name} submitted: {entrypoint}")
        return name

    def stop(self, name: str, entrypoint: str) -> None:
        """Stop the job of a name and command, if one is running."""
        for job in self._attempts(name):
            if job["status"] not in _ENDED and job["entrypoint"] == entrypoint:
                self._request("POST", f"/api/jobs/{job['submission_id']}/stop", absent=True)

    def _attempts(self, name: str) -> list[dict[str, Any]]:
        """Give each job of a name that the cluster still knows."""
        ours = re.compile(rf"{re.escape(name)}(-\d+)?")
        return [job for job in self._request("GET", "/api/jobs/") if ours.fullmatch(job["submission_id"] or "")]

    def _submit(
        self, submission_id: str, entrypoint: str, runtime_env: Mapping[str, Any] | None, *, once: bool = False
    ) -> None:  # fmt: skip
        """Submit a command; with `once` one of that id that has ended is as good as a new one."""
        mark = {"submitted_by": secrets.token_hex(8)}
        body = {"submission_id": submission_id, "entrypoint": entrypoint, "metadata": mark}
        body["runtime_env"] = dict(runtime_env or {})
        try:
            self._request("POST", "/api/jobs/", body)
        except RuntimeError:
            # By this call before its answer was lost, or by another at the same moment. Another's that has ended may be
            # of another day: its end says nothing of this one.
            found = self._info(submission_id) or {}
            ours = found.get("metadata") == mark
            if not ours and (found.get("entrypoint") != entrypoint or (found["status"] in _ENDED and not once)):
                raise

    def _wait(self, submission_id: str) -> dict[str, Any]:
        while True:
            found = self._info(submission_id)
            if found is None:
                raise RayJobError(f"{submission_id}: the cluster does not know it any more", None)
            if found["status"] in _ENDED:
                return found
            time.sleep(self._poll)

    def _info(self, submission_id: str) -> dict[str, Any] | None:
        return self._request("GET", f"/api/jobs/{submission_id}", absent=True)

    def _log(self, submission_id: str) -> str:
        try:
            found = self._request("GET", f"/api/jobs/{submission_id}/logs", absent=True) or {}
        except RuntimeError as error:  # of a machine that is gone: how the job ended is known all the same
            return f"{submission_id}: its log cannot be read: {error}"
        return found.get("logs", "")[-_SAID_CHARACTERS:].strip()

    def _request(self, method: str, path: str, body: Any = None, *, absent: bool = False) -> Any:
        """Ask once; and again, while nobody answers or another than Ray. With `absent`, what is not there is None."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, self._headers, method=method)
        given_up = time.monotonic() + self._patience
        while True:
            try:
                return self._ask(request, f"{method} {path}", absent=absent)
            except _NoAnswerError as error:
                if time.monotonic() > given_up:
                    raise RuntimeError(f"{self._address}: no answer ({error}); is the Ray cluster up?") from None
                time.sleep(self._poll)

    def _ask(self, request: urllib.request.Request, what: str, *, absent: bool) -> Any:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, _body(error)
        except (OSError, http.client.HTTPException) as error:
            raise _NoAnswerError(f"{what}: {type(error).__name__}: {error}") from None
        if absent and status == 404:
            return None
        reason = f"{what} got {status}: {_last_line(content.decode(errors='replace'))}"
        # Ray says 500 to an id that is taken too, so what was submitted is looked up and not submitted again.
        if status in _NOT_NOW or (status == 500 and request.get_method() == "GET"):
            raise _NoAnswerError(reason)
        if status >= 400:
            raise RuntimeError(f"{self._address}: {reason}")
        try:
            return json.loads(content or b"null")
        except ValueError:  # a page of a proxy's own
            raise _NoAnswerError(reason) from None


def _number(name: str, submission_id: str) -> int:
    """Of an attempt: the first has none in its name."""
    return int(submission_id.removeprefix(f"{name}-")) if submission_id != name else 1


class _NoAnswerError(Exception):
    """What was asked may be asked again."""


def _body(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read()
    except (OSError, http.client.HTTPException):  # cut off: its status says enough
        return b""


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:_REASON_CHARACTERS] if lines else "no reason given"
