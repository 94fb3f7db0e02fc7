"""Every job's command line: the same answers to the same questions, whatever the job does."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster.launch import run_job
from cluster.places import look_at_input, places_of
from cluster.settings import Settings, describe_settings, load_settings
from tests.conftest import PROJECT

JOBS = sorted(path.stem for path in (PROJECT / "jobs").glob("*.py") if path.stem != "__init__")
OTHERS = {
    "database": "postgresql://verdicts@db/verdicts",
    "day": "2026-11-22",
    "event_id": "cancelled-1",
    "first": "2026-11-22",
    "language": "id",
    "last": "2026-11-23",
    "market": "ID",
    "product": "relevance",
}
"""Required settings that name no place."""


class Job(NamedTuple):
    """A job's module as its command line sees it."""

    name: str
    main: object
    settings: type[Settings]
    options: dict[str, object]
    """What else its last line gives to `run_job`."""

    def run(self, *arguments: str) -> int:
        """Give the status with which `python -m jobs.<name>` would leave."""
        defaults = PROJECT / "jobs" / f"{self.name}.toml"
        try:
            run_job(self.main, self.settings, defaults=defaults, arguments=arguments, **self.options)
        except SystemExit as left:
            return int(left.code or 0)
        return 0

    def with_all_it_reads(self, folder: Path) -> list[str]:
        """Arguments under which everything that the job reads is there, and what it writes is new."""
        required = [name for name, field in self.settings.model_fields.items() if field.is_required()]
        given = [f"{name}={OTHERS.get(name, 'x')}" for name in required]
        job = load_settings(self.settings, given, defaults=PROJECT / "jobs" / f"{self.name}.toml")
        there = folder / "there.csv"
        there.write_text("anything\n")
        names: dict[str, list[str]] = {}
        for found in places_of(job):
            read = str(there) if found.place.look is look_at_input else str(PROJECT / "relevance" / "small_model")
            names.setdefault(found.setting, []).append(
                read if found.place.verb == "reads" else str(folder / "new" / found.setting)
            )
        kinds = {found.setting: _value(job, found.setting) for found in places_of(job)}
        places = [
            f"{setting}={values[0] if isinstance(kinds[setting], str) else json.dumps(values)}"
            for setting, values in names.items()
        ]
        return [*(f"{name}={OTHERS[name]}" for name in required if name in OTHERS), *places]


def _value(settings: Settings, name: str) -> object:
    value: object = settings
    for part in name.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def _module(name: str) -> ast.Module:
    return ast.parse((PROJECT / "jobs" / f"{name}.py").read_text(encoding="utf-8"))


@pytest.fixture
def job(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    name = request.param
    monkeypatch.chdir(tmp_path)
    for variable in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    module = importlib.import_module(f"jobs.{name}")
    (settings,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Settings) and value.__module__ == module.__name__
    ]
    (call,) = _module(name).body[-1].body
    options = {word.arg: eval(ast.unparse(word.value), vars(module)) for word in call.value.keywords[1:]}
    return Job(name, module.main, settings, options)


every_job = pytest.mark.parametrize("job", JOBS, indirect=True)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_run_by_the_shared_command_line(name: str) -> None:
    """So its statuses, its answer to SIGTERM and its log lines are those of `run_job`, tested with it."""
    last = _module(name).body[-1]
    assert ast.unparse(last.test) == "__name__ == '__main__'"
    (call,) = last.body
    assert ast.unparse(call.value.func) == "run_job"
    assert ast.unparse(call.value.keywords[0]) == "defaults=Path(__file__).with_suffix('.toml')"


@every_job
def test_help_shows_the_command_and_every_setting(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.run("--help", "no.such=1") == 0
    said = capsys.readouterr()
    assert f"python -m jobs.{job.name}" in said.out
    assert [name for name, _, _ in describe_settings(job.settings) if f"  {name} = " not in said.out] == []
    assert said.err == ""


@every_job
def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = job.with_all_it_reads(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert job.run(*arguments, "--dry-run") == 0
    said = capsys.readouterr()
    resolved = job.settings.model_validate_json(said.out)
    lines = said.err.splitlines()
    for found in places_of(resolved):
        assert any(line.startswith(f"dry run: {found.place.verb} {found.setting}={found.name}: ") for line in lines)
    assert any(line.startswith("dry run: runs on a Ray of this machine") for line in lines) == ("session" in said.out)
    assert sorted(tmp_path.rglob("*")) == before
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


@every_job
def test_a_setting_that_there_is_not_is_refused(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for further in ([], ["--dry-run"]):
        assert job.run(*job.with_all_it_reads(tmp_path), "no_such_setting=1", *further) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert "no_such_setting: no such setting (--help lists them)" in said.err
        assert len(said.err.splitlines()) == 1


ESTIMATED = {
    "cancellation_label",
    "cancellation_llm_finetune",
    "cancellation_pretrain",
    "cancellation_score",
    "cancellation_train",
    "relevance_crossvalidate",
    "relevance_finetune",
    "relevance_pretrain",
    "relevance_publish",
    "relevance_score",
    "relevance_sweep",
}
"""Jobs that say what they would take; the others say why they do not."""


@every_job
def test_help_says_whether_there_is_an_estimate(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.run("--help") == 0
    assert ("--estimate: what it would take is printed" in capsys.readouterr().out) == (job.name in ESTIMATED)


@every_job
def test_an_estimate_that_cannot_be_given_is_refused_in_one_line(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Because the job has none, or because what it would read is not there."""
    arguments = job.with_all_it_reads(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    if job.name in ESTIMATED:
        arguments = [one.replace("there.csv", "gone.csv").replace("small_model", "no/model") for one in arguments]
        arguments += ["training.events.events=gone"] if job.name == "cancellation_train" else []
        arguments += ["pretraining.chats=gone"] if job.name == "cancellation_pretrain" else []
    for given in ("--estimate", "estimate=true"):
        assert job.run(*arguments, given) == 2
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = said.err.splitlines()
        assert line.startswith("error: ")
        assert ("--estimate: this job has none (" in line) == (job.name not in ESTIMATED)
    assert sorted(tmp_path.rglob("*")) == before
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


READ_NOTHING = {
    "cancellation_pretrain": "chats may be simulated",
    "cancellation_publish": "null where a rollback is asked for",
    "cancellation_rollout": "a database",
    "cancellation_serve_demo": "an endpoint",
    "cancellation_simulate": "",
    "cancellation_train": "events may be simulated",
    "pretrained": "installed packages",
    "relevance_cost": "its settings",
    "relevance_publish": "null where a rollback is asked for",
    "relevance_sample": "",
    "schedule": "what the steps' jobs read is looked at when they run",
}
"""Jobs that read no place unless they are told to."""


@pytest.mark.parametrize("job", [name for name in JOBS if name not in READ_NOTHING], indirect=True)
def test_a_dry_run_names_all_that_is_not_there(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = job.with_all_it_reads(tmp_path)
    taken_away = [argument for argument in arguments if "there.csv" in argument or "small_model" in argument]
    gone = [argument.replace("there.csv", "gone.csv").replace("small_model", "no/model") for argument in taken_away]
    kept = [argument for argument in arguments if argument not in taken_away]
    assert gone
    assert job.run(*kept, *gone, "--dry-run") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert [argument for argument in gone if f"{argument.partition('=')[0]}=" not in line] == []


@pytest.mark.parametrize("job", ["relevance_score"], indirect=True)
def test_a_dry_run_names_a_place_that_cannot_be_written(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [one for one in job.with_all_it_reads(tmp_path) if not one.startswith("output=")]
    (tmp_path / "a_file").write_text("")
    assert job.run(*arguments, f"output={tmp_path}/a_file/scores", "--dry-run") == 2
    assert f"output={tmp_path}/a_file/scores: {tmp_path}/a_file cannot be written to" in capsys.readouterr().err


@pytest.mark.parametrize("job", ["relevance_score"], indirect=True)
def test_a_dry_run_tells_what_it_would_ask_of_ray(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    shutil.copy(PROJECT / "jobs" / "relevance_score.gpu.toml", tmp_path / "gpu.toml")
    assert job.run("gpu.toml", *job.with_all_it_reads(tmp_path), "--dry-run") == 0
    said = capsys.readouterr().err
    assert "dry run: runs on the Ray at 10.0.0.1:6379, with scoring.gpus_per_actor=1.0" in said


def test_a_reader_that_has_seen_enough_of_the_help_is_no_failure() -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does
    try:
        done = subprocess.run(
            [sys.executable, "-m", "jobs.schedule", "--help"], stdout=writing, stderr=subprocess.PIPE, cwd=PROJECT
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("job", ["cancellation_compare"], indirect=True)
def test_a_dry_run_looks_at_the_encoder_that_few_shot_rows_need_late(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = "comparison.llm.labelling.retrieval.encoder=no/model/there"
    model = f"comparison.llm.backend.local.model={PROJECT}/cancellation/small_model"
    none = "comparison.sets={}"
    for rows, status in (('["LLM few-shot"]', 2), ('["LLM zero-shot"]', 0)):
        assert job.run(f"comparison.approaches={rows}", encoder, model, none, "--dry-run") == status
        assert (f"{encoder}: " in capsys.readouterr().err) == bool(status)
