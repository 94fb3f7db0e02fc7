"""Attempts of one job on a cluster that forgets some of them, over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cancellation.monitoring.triggers import RetrainDecision, SubmitSettings, submit_retraining
from cluster.schedule.ray_jobs import RayJobError, RayJobs


class Head(BaseHTTPRequestHandler):
    """The part of Ray's HTTP interface that is asked; a job that is submitted has failed at once."""

    jobs: dict[str, dict[str, object]]
    unlisted: set[str]
    lost_answers = 0
    address: str

    def do_GET(self) -> None:
        if self.path == "/api/jobs/":
            self._answer(200, [job for name, job in self.jobs.items() if name not in self.unlisted])
        elif self.path.endswith("/logs"):
            self._answer(200, {"logs": f"log of {self.path.split('/')[-2]}"})
        else:
            job = self.jobs.get(self.path.rpartition("/")[2])
            self._answer(200 if job else 404, job)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["submission_id"]
        if name in self.jobs:
            self._answer(500, f"Job with submission_id {name} already exists")
        else:
            self.jobs[name] = ended(name, body["entrypoint"], code=9) | {"metadata": body["metadata"]}
            if type(self).lost_answers:
                type(self).lost_answers -= 1
                return
            self._answer(200, {"submission_id": name})

    def _answer(self, status: int, content: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        pass


def ended(name: str, entrypoint: str, *, code: int = 2, status: str = "FAILED") -> dict[str, object]:
    return {"submission_id": name, "entrypoint": entrypoint, "status": status, "driver_exit_code": code}


@pytest.fixture
def head() -> Iterator[tuple[type[Head], RayJobs]]:
    handler = type("OneHead", (Head,), {"jobs": {}, "unlisted": set()})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    handler.address = f"http://127.0.0.1:{server.server_port}"
    yield handler, RayJobs(handler.address, poll_seconds=0.01, patience_seconds=1)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("known", "started"),
    [((), "day"), (("day",), "day-2"), (("day-2",), "day-3"), (("day", "day-10", "day-9"), "day-11")],
)
def test_an_attempt_has_a_number_that_none_had(
    head: tuple[type[Head], RayJobs], known: tuple[str, ...], started: str
) -> None:
    """With the first deleted, the second was taken for a new one: its old failure was today's, and nothing ran."""
    cluster, jobs = head
    cluster.jobs.update({name: ended(name, "python x") for name in known})
    said: list[str] = []
    with pytest.raises(RayJobError, match=rf"^{started}: failed, status 9"):
        jobs.run("day", "python x", say=said.append)
    assert said == [f"{started} submitted: python x", f"log of {started}"]


@pytest.mark.parametrize("status", ["FAILED", "SUCCEEDED"])
def test_one_that_has_ended_is_not_what_was_refused(head: tuple[type[Head], RayJobs], status: str) -> None:
    cluster, jobs = head
    cluster.jobs["day"] = ended("day", "python x", status=status)
    cluster.unlisted.add("day")
    with pytest.raises(RuntimeError, match="day already exists"):
        jobs.run("day", "python x", say=[].append)
    assert jobs.submit("day", "python x", say=[].append) == "day"  # what is submitted once may have ended


def test_one_whose_submission_went_unanswered_is_not_run_again(head: tuple[type[Head], RayJobs]) -> None:
    cluster, jobs = head
    cluster.lost_answers = 1
    with pytest.raises(RayJobError, match=r"^day: failed, status 9"):
        jobs.run("day", "python x", say=[].append)
    assert list(cluster.jobs) == ["day"]


def test_a_round_is_opened_once_for_each_model_while_one_takes_over_from_another(
    head: tuple[type[Head], RayJobs], tmp_path: Path
) -> None:
    """Most answers of a day are now of the one, now of the other, and a cluster that is started anew knows no job."""
    cluster, _ = head
    said = []
    for day, model in ((20, "small@1"), (21, "small@2"), (22, "small@1"), (23, "small@2")):
        cluster.jobs.clear()
        decision = RetrainDecision(f"2026-11-{day}", model, True, (), relabel="true", command="true")
        (line,) = submit_retraining(decision, str(tmp_path), SubmitSettings(address=cluster.address), token=None)
        said.append(line.partition(":")[0])
    assert said[0].startswith("relabel-after-small-1-")
    assert said[1].startswith("relabel-after-small-2-")
    assert said[2:] == ["submitted on 2026-11-20", "submitted on 2026-11-21"]
