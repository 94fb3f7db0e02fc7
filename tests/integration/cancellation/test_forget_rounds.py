"""A seller forgotten in rounds of relabelling by the job, on disk and on S3, and broken off at every step."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cancellation.events.event import event_mapping, parse_event
from cancellation.events.table import write_labelled
from cancellation.relabelling.answers import read_answers
from cancellation.relabelling.cases import Case, read_cases, read_labelled
from cancellation.relabelling.correction import Correction, correct
from cancellation.relabelling.report import correction_lines, round_lines
from cancellation.relabelling.round import make_round
from cancellation.relabelling.tasks import TaskSettings
from cancellation.serving.records.people import PersonKey
from cancellation.serving.settings import ServingSettings
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster import storage
from cluster.commit import Output, read_job_manifest
from jobs.cancellation_forget import ForgetJob, main
from tests.builders.reviewers import answer_round
from tests.servers.s3 import S3Server

SELLER = "seller-1"
EVENTS = [
    replace(one, event=replace(one.event, seller_id=SELLER)) if number in (1, 9, 20, 30) else one
    for number, one in enumerate(simulate(SimulationSettings(num_events=40, label_noise=0.3), 8))
]
FROM_ARCHIVE = EVENTS[20]
"""Of the same seller: a verdict in service that people rejected."""
ASKED = [*EVENTS[:12], FROM_ARCHIVE]
THEIRS = {one.event.event_id for one in EVENTS if one.event.seller_id == SELLER}
GONE = {one.event.event_id for one in ASKED} & THEIRS


@dataclass
class Place:
    """A round that people answered, what came of it, the labelled set, and the answers as they were exported."""

    url: str
    folder: Path

    def job(self) -> ForgetJob:
        people = self.folder / "people.txt"
        people.write_text(f"seller {SELLER}\n")
        serving = ServingSettings(
            data_dir=str(self.folder / "data"),
            output=str(self.folder / "archive"),
            person_key_file=str(self.folder / "person.key"),
        )
        return ForgetJob(people=str(people), relabelling=(self.url,), serving=serving)

    def mentioned(self) -> set[str]:
        """Events that stand in some file, whatever it is, compressed tables read."""
        found = {name for name in _ids() for file in self._texts() if name.encode() in file}
        return found | read_cases(f"{self.url}/round")[1].keys()

    def _texts(self) -> list[bytes]:
        return [storage.read_bytes(file.url) for file in storage.list_files(self.url)]


def _ids() -> list[str]:
    return [one.event.event_id for one in EVENTS]


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    url = request.getfixturevalue("bucket") if request.param == "s3" else str(tmp_path / "kept")
    return made(Place(url, tmp_path))


def made(place: Place) -> Place:
    place.folder.joinpath("person.key").write_text("k" * 40)
    place.folder.joinpath("person.key").chmod(0o600)
    key = PersonKey.load(place.folder / "person.key")
    opinions = {"trees": [0.1, 0.1, 0.8], "fusion": [0.1, 0.3, 0.6]}
    cases = [Case(o.event, "contradicted", rank, o.label, opinions=opinions) for rank, o in enumerate(EVENTS[:8], 1)]
    cases += [Case(one.event, "test", rank, one.label) for rank, one in enumerate(EVENTS[8:12], 1)]
    hidden = parse_event(key.hidden(event_mapping(FROM_ARCHIVE.event)))
    cases.append(Case(hidden, "rejected", 1, "induced", labelled_by="model m@1"))
    source = f"{place.url}/labelled/set.parquet"
    write_labelled(source, [one for one in EVENTS if one is not FROM_ARCHIVE])
    make_round(Output(f"{place.url}/round"), {"by": "hand"}, lambda: cases, TaskSettings(annotators_per_case=2))
    for name in ("ann", "bob"):
        task = place.folder / f"read/label_studio/{name}.json"
        task.parent.mkdir(parents=True, exist_ok=True)
        task.write_bytes(storage.read_bytes(f"{place.url}/round/label_studio/{name}.json"))
    answer_round(place.folder / "read", {one.event.event_id: one for one in EVENTS}, place.folder / "exports")
    storage.send_folder(place.folder / "exports", f"{place.url}/exports")
    manifest, by_event = read_cases(f"{place.url}/round")
    answers = read_answers([f"{place.url}/exports"], by_event, manifest, people={})
    correction = Correction(source, read_labelled(source), by_event, manifest, answers, 0.15)
    correct(correction, Output(f"{place.url}/out"), correction.plan(), None)
    return place


def test_cases_tasks_answers_and_labels_of_a_seller_go_and_the_counts_say_so(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    before, report = place.mentioned(), read_job_manifest(f"{place.url}/out")["report"]
    assert before == set(_ids())
    main(place.job())
    found, left = capsys.readouterr().out.splitlines()
    assert found.endswith(f", {len(THEIRS)} relabelled or labelled events")
    assert left.endswith(", 0 relabelled or labelled events")
    assert place.mentioned() == before - THEIRS
    manifest, cases = read_cases(f"{place.url}/round")
    assert cases.keys() == {one.event.event_id for one in ASKED} - THEIRS
    assert manifest["asked"] == {"contradicted": 8, "test": 4, "rejected": 1}
    assert manifest["forgotten"] == len(GONE)
    assert json.loads(storage.read_bytes(f"{place.url}/round/run.json"))["forgotten"] == len(GONE)
    assert f"{len(GONE)} cases removed since" in "\n".join(round_lines({**manifest, "already_done": True}, place.url))
    changed = read_job_manifest(f"{place.url}/out")["report"]
    named = {kind: [one for one in some if one["event_id"] not in THEIRS] for kind, some in report["cases"].items()}
    assert changed == {**report, "forgotten": len(THEIRS), "cases": named} != {**report, "forgotten": len(THEIRS)}
    assert json.loads(storage.read_bytes(f"{place.url}/out/report.json")) == changed
    assert f"{len(THEIRS)} labels removed since" in "\n".join(correction_lines({**changed, "already_done": True}, ""))
    assert len(read_labelled(f"{place.url}/labelled/set.parquet")) == len(EVENTS) - len(THEIRS)
    main(place.job())
    assert "0 relabelled" in capsys.readouterr().out.splitlines()[0]
    assert read_job_manifest(f"{place.url}/out")["report"] == changed


def test_an_answer_to_a_case_that_was_forgotten_is_refused_with_what_to_do(place: Place) -> None:
    storage.send_folder(place.folder / "exports", f"{place.url}/late")
    job = place.job()
    main(job.model_copy(update={"relabelling": tuple(f"{place.url}/{one}" for one in ("round", "out", "labelled"))}))
    manifest, cases = read_cases(f"{place.url}/round")
    with pytest.raises(ValueError, match="were forgotten since: delete those tasks in Label Studio"):
        read_answers([f"{place.url}/late"], cases, manifest, people={})


@pytest.mark.parametrize(
    "at", ["cases.parquet", *(pytest.param(at, marks=pytest.mark.slow) for at in ("exports/ann.json", "_SUCCESS"))]
)
def test_broken_off_anywhere_the_next_run_finishes_it(
    at: str, s3_server: S3Server, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = made(Place(bucket, tmp_path))
    with s3_server.fail("PUT", at, status=403, times=1) as fault, pytest.raises(PermissionError):
        main(place.job())
    assert fault.reached.is_set()
    main(place.job())
    assert ", 0 relabelled" in capsys.readouterr().out.splitlines()[-1]
    assert place.mentioned() == set(_ids()) - THEIRS
    assert read_cases(f"{place.url}/round")[0]["forgotten"] == len(GONE)
    assert read_job_manifest(f"{place.url}/out")["report"]["forgotten"] == len(THEIRS)


def test_a_file_that_cannot_be_searched_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = made(Place(str(tmp_path / "kept"), tmp_path))
    (tmp_path / "kept/exports/ann.csv").write_text("event_id,label\n")
    (tmp_path / "kept/exports/cut.json").write_text('[{"data": {')
    main(place.job())
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("not searched: 2 files of other forms, such as ")
    assert line.endswith("exports/ann.csv")
