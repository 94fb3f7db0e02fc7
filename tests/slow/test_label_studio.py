"""Our tasks in a real Label Studio: a project by its HTTP API, two people's labels, the export, and back.

Label Studio has a hundred packages of its own, so it lives in an environment of its own: LABEL_STUDIO names its
command, else one is installed into a temporary folder (half a gigabyte from the package index).

    LABEL_STUDIO=…/bin/label-studio python -m pytest -m slow tests/slow/test_label_studio.py
"""

from __future__ import annotations

import http.cookiejar
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cancellation.relabelling import tasks as relabelling
from cancellation.relabelling.answers import read_answers, settle
from cancellation.relabelling.cases import Case, read_cases
from cancellation.relabelling.procedure import load_procedure
from cancellation.relabelling.round import make_round as make_relabelling_round
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster.commit import Output
from cluster.tracking import TrackingSettings
from jobs import relevance_agreement, relevance_annotate
from relevance.annotation.files import read_annotations
from relevance.annotation.strata import StrataSettings
from relevance.annotation.tasks import TaskSettings
from relevance.prompting.guidelines import load_guidelines
from relevance.prompting.guidelines_page import guidelines_fragment
from tests.builders.annotation_data import write_scored_day
from tests.builders.reviewers import chosen

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_START_SECONDS = 300
_PASSWORD = "only-For-This-Test-1"  # pragma: allowlist secret


class Person:
    """Somebody who is logged in to Label Studio."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._cookies))

    def submit(self, path: str, **fields: str) -> None:
        """Fill in a form of the web pages, as login and sign-up are."""
        self._opener.open(self.address + path, timeout=60).read()
        data = urllib.parse.urlencode({**fields, "csrfmiddlewaretoken": self._csrf()}).encode()
        request = urllib.request.Request(self.address + path, data, {"Referer": self.address + path})
        self._opener.open(request, timeout=60).read()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json", "X-CSRFToken": self._csrf(), "Referer": self.address}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        try:
            with self._opener.open(request, timeout=120) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:2000]!r}") from None

    def label(self, task: int, label: str, comment: str = "") -> None:
        result = [_result("label", "choices", {"choices": [label]})]
        result += [_result("comment", "textarea", {"text": [comment]})] if comment else []
        self.annotate(task, result)

    def annotate(self, task: int, result: list[dict]) -> None:
        self.call("POST", f"/api/tasks/{task}/annotations", {"result": result, "lead_time": 3.0})

    def _csrf(self) -> str:
        return next((cookie.value or "" for cookie in self._cookies if cookie.name == "csrftoken"), "")


def _result(name: str, kind: str, value: dict) -> dict:
    return {"from_name": name, "to_name": "query", "type": kind, "value": value}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> str:
    if found := os.environ.get("LABEL_STUDIO"):
        return found
    folder = tmp_path_factory.mktemp("label-studio") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin/pip"), "install", "--quiet", "label-studio"], check=True)
    return str(folder / "bin/label-studio")


@pytest.fixture(scope="module")
def address(command: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Label Studio with nobody but the lead in it."""
    folder = tmp_path_factory.mktemp("label-studio-data")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": ""}
    user = ["--username", "lead@example.com", "--password", _PASSWORD]
    start = [command, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port), *user]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([*start, "--data-dir", str(folder)], env=os.environ | quiet, stdout=log, stderr=log)
        try:
            _wait(f"http://127.0.0.1:{port}", server, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def _wait(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).read()
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])


@pytest.fixture(scope="module")
def people(address: str) -> tuple[Person, Person]:
    """The lead, and somebody who followed the lead's invitation."""
    lead, guest = Person(address), Person(address)
    lead.submit("/user/login/", email="lead@example.com", password=_PASSWORD)
    token = lead.call("GET", "/api/invite")["token"]
    guest.submit(
        f"/user/signup/?token={token}", email="bob@example.com", password=_PASSWORD, how_find_us="", elaborate=""
    )
    assert guest.call("GET", "/api/current-user/whoami")["email"] == "bob@example.com"
    return lead, guest


def make_round(folder: Path, projects: str) -> Path:
    write_scored_day(folder, 200)
    job = relevance_annotate.AnnotateJob(
        scores=str(folder / "scores"),
        output=str(folder / "round"),
        strata=StrataSettings(counts={"exact": (2, 2, 2), "irrelevant": (2, 2, 2)}),
        tasks=TaskSettings(annotators=("lead", "bob"), projects=projects),
        tracking=TrackingSettings(uri=f"sqlite:///{folder}/mlflow.db"),
    )
    relevance_annotate.main(job)
    return folder / "round"


def open_project(lead: Person, made: Path, name: str) -> tuple[int, list[dict]]:
    """Create a project with our interface, import our tasks; its number and the tasks as Label Studio has them."""
    config = (made / "label_studio/config.xml").read_text()
    given = {"title": f"Project {name}", "label_config": config, "maximum_annotations": 2}
    project = lead.call("POST", "/api/projects", given)["id"]
    tasks = json.loads((made / f"label_studio/{name}.json").read_text())
    assert lead.call("POST", f"/api/projects/{project}/import", tasks)["task_count"] == len(tasks)
    listed = lead.call("GET", f"/api/tasks?project={project}&page_size=100&fields=all")["tasks"]
    assert len(listed) == len(tasks)
    return project, listed


def save_export(lead: Person, project: int, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(lead.call("GET", f"/api/projects/{project}/export?exportType=JSON")))


def test_a_project_for_each_person_and_back_to_agreement(people: tuple[Person, Person], tmp_path: Path) -> None:
    made = make_round(tmp_path, "annotator")
    for person, name in zip(people, ("lead", "bob"), strict=True):
        project, tasks = open_project(people[0], made, name)
        shown = people[0].call("GET", f"/api/projects/{project}")
        assert shown["parsed_label_config"]["label"]["labels"] == ["exact", "substitute", "complement", "irrelevant"]
        (rules,) = ElementTree.fromstring(shown["label_config"]).iter("HyperText")
        assert rules.get("value") == guidelines_fragment(load_guidelines())
        for number, task in enumerate(tasks):
            # They differ on every third pair, in the order of the keys, which is not the order of the tasks.
            differs = name == "bob" and sum(map(ord, task["data"]["product_id"] + task["data"]["query_id"])) % 3 == 0
            person.label(task["id"], "substitute" if differs else "exact", "size?" if number == 0 else "")
        save_export(people[0], project, tmp_path / f"back/{name}.json")
    read = read_annotations([str(tmp_path / "back")]).annotations
    assert {one.annotator for one in read} == {"lead", "bob"}
    assert len(read) == 24
    assert [one.comment for one in read].count("size?") == 2
    assert all(one.annotated_at.startswith("20") and one.guideline_version for one in read)
    job = relevance_agreement.AgreementJob(
        rounds=(str(made),),
        annotations=(str(tmp_path / "back"),),
        output=str(tmp_path / "agreement"),
        tracking=TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db"),
    )
    relevance_agreement.main(job)
    run = json.loads((tmp_path / "agreement/run.json").read_text())
    differing = {one.pair for one in read if one.label == "substitute"}
    assert 0 < len(differing) < 12
    assert run["methods"] == {"majority": 12 - len(differing), "open": len(differing)}


def test_one_project_for_two_people(people: tuple[Person, Person], tmp_path: Path) -> None:
    made = make_round(tmp_path, "shared")
    project, tasks = open_project(people[0], made, "shared")
    for task in tasks:
        for person, label in zip(people, ("exact", "irrelevant"), strict=True):
            person.label(task["id"], label)
    save_export(people[0], project, tmp_path / "back/shared.json")
    numbers = [str(person.call("GET", "/api/current-user/whoami")["id"]) for person in people]
    unnamed = read_annotations([str(tmp_path / "back")]).annotations
    assert {one.annotator for one in unnamed} == {f"user {number}" for number in numbers}
    names = dict(zip(numbers, ("lead", "bob"), strict=True))
    named = read_annotations([str(tmp_path / "back")], people=names).annotations
    assert {(one.annotator, one.label) for one in named} == {("lead", "exact"), ("bob", "irrelevant")}
    assert len({one.pair for one in named}) == len(tasks) == 12


def test_a_round_of_relabelling_and_back(people: tuple[Person, Person], tmp_path: Path) -> None:
    events = [one.event for one in simulate(SimulationSettings(num_events=6), 3)]
    cases = [Case(event, "contradicted", rank, "induced") for rank, event in enumerate(events, 1)]
    tasks = relabelling.TaskSettings(annotators=("lead", "bob"), annotators_per_case=2)
    make_relabelling_round(Output(str(tmp_path / "round")), {"made": "here"}, lambda: cases, tasks)
    for person, name, label in zip(people, ("lead", "bob"), ("not_induced", "induced"), strict=True):
        project, listed = open_project(people[0], tmp_path / "round", name)
        shown = people[0].call("GET", f"/api/projects/{project}")["parsed_label_config"]
        assert shown["category"]["labels"] == ["induced", "not_induced", "inconclusive"]
        assert shown["factors"]["labels"] == list(load_procedure().factors)
        assert shown["reasoning"]["type"] == "TextArea"
        for place, task in enumerate(listed):
            assert task["data"]["case"].startswith("[ORDER]")
            said = chosen(label if place else "not_induced", ("chat.no_reply",), "nobody answered")
            person.annotate(task["id"], [{**one, "to_name": "case"} for one in said])
        save_export(people[0], project, tmp_path / f"back/{name}.json")
    manifest, known = read_cases(str(tmp_path / "round"))
    answers = read_answers([str(tmp_path / "back")], known, manifest, people={})
    assert {(one.by, one.why) for one in answers} == {("lead", "nobody answered"), ("bob", "nobody answered")}
    assert all(one.at.startswith("20") and one.factors == ("chat.no_reply",) for one in answers)
    settled = settle(answers, needed=2)
    assert len(settled) == 6
    assert sorted(one.label or "open" for one in settled.values()) == ["not_induced", *["open"] * 5]
