"""Schedule files: what ships is accepted by the jobs that it names, and what is wrong is named."""

from __future__ import annotations

import importlib
import json
import shlex
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from cluster.schedule.dag_files import render_airflow
from cluster.schedule.plan import Command, commands, find_flow, load_schedule, yesterday
from cluster.schedule.runner import chosen_days, run_days
from cluster.settings import Settings, load_settings
from tests.conftest import PROJECT

DAY = date(2026, 11, 22)
SMALL = """
product = "cancellation"
record = "{root}/schedule"
[values]
root = "var"
archive = "{root}/archive"
[[flows]]
name = "daily"
at = "30 1 * * *"
[[flows.steps]]
name = "monitor"
job = "cancellation_monitor"
arguments = ["archive={archive}", "day={day}"]
after = ["compact"]
why = "what changed"
[[flows.steps]]
name = "compact"
job = "cancellation_compact"
arguments = ["archive={archive}", "before={next_day}"]
why = "few files"
"""


def _shipped() -> list[Command]:
    found = []
    for product in ("relevance", "cancellation"):
        schedule = load_schedule(PROJECT / product / "schedule.toml")
        for flow in schedule.flows:
            found += commands(schedule, flow, DAY)
    return found


@pytest.mark.parametrize("command", _shipped(), ids=lambda command: command.submission_id)
def test_what_ships_is_a_command_that_its_job_accepts(command: Command) -> None:
    _, name, *arguments = command.words
    module = importlib.import_module(name)
    (cls,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Settings) and value.__module__ == name
    ]
    defaults = Path(module.__file__).with_suffix(".toml")
    load_settings(cls, arguments, defaults=defaults)
    assert "2026-11-2" in command.entrypoint or command.step in ("forget", "compact")


def test_all_places_move_with_one_value() -> None:
    for product in ("relevance", "cancellation"):
        schedule = load_schedule(PROJECT / product / "schedule.toml", {"root": "s3://bucket"})
        text = " ".join(command.entrypoint for flow in schedule.flows for command in commands(schedule, flow, DAY))
        assert "var/" not in text
        assert schedule.record == "s3://bucket/schedule"


def _written(folder: Path, text: str = SMALL) -> Path:
    path = folder / "schedule.toml"
    path.write_text(text)
    return path


def test_steps_stand_behind_those_that_they_come_after(tmp_path: Path) -> None:
    schedule = load_schedule(_written(tmp_path), {"root": "s3://my bucket"})
    compact, monitor = commands(schedule, find_flow(schedule, "daily"), DAY)
    assert compact.words == ("-m", "jobs.cancellation_compact", "archive=s3://my bucket/archive", "before=2026-11-23")
    assert shlex.split(monitor.entrypoint) == ["python", *monitor.words]
    assert monitor.submission_id == "cancellation-daily-monitor-2026-11-22"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("30 1 * * *", "30 1 * *", "five fields of cron"),
        ("30 1 * * *", "30 25 * * *", "numbers from 0 to 23 in '25'"),
        ("30 1 * * *", "soon 1 * * *", "five fields of cron"),
        ("30 1 * * *", "*/0 1 * * *", "five fields of cron"),
        ("30 1 * * *", "30 1 * * 5-1", "a range from the smaller to the greater number in '5-1'"),
        ('after = ["compact"]', 'after = ["compost"]', "monitor.after: no step compost"),
        ('name = "compact"', 'name = "monitor"', "each name once"),
        ("day={day}", "day={dya}", "{dya} has no value; there are root, archive, day, next_day, two_days_before"),
        ("day={day}", "day={day", "daily.monitor: 'day={day'"),
        ("{root}/archive", "{archive}/root", "values.archive: {archive} has no value"),
        ('why = "few files"', 'after = ["monitor"]\nwhy = "few files"', "steps wait for each other"),
        ('why = "few files"', 'because = "few files"', "flows.0.steps.1.because"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SMALL
    with pytest.raises(ValueError, match=r"schedule .*schedule\.toml") as refused:
        load_schedule(_written(tmp_path, SMALL.replace(old, new)))
    assert said in str(refused.value)


def test_a_misspelt_value_and_flow_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no value rot; there are root, archive"):
        load_schedule(_written(tmp_path), {"rot": "s3://x"})
    with pytest.raises(ValueError, match="cancellation has no flow nightly: daily"):
        find_flow(load_schedule(_written(tmp_path)), "nightly")


def test_a_day_a_span_or_yesterday() -> None:
    assert yesterday(datetime(2026, 11, 23, 0, 5, tzinfo=UTC)) == DAY
    assert chosen_days(None, None, None) == [yesterday()]
    assert chosen_days(DAY, None, None) == [DAY]
    assert [found.day for found in chosen_days(None, date(2026, 11, 29), date(2026, 12, 2))] == [29, 30, 1, 2]
    for wrong in ((DAY, DAY, None), (None, None, DAY), (None, DAY, date(2026, 11, 21))):
        with pytest.raises(ValueError, match="expected"):
            chosen_days(*wrong)


def test_again_adds_what_a_step_needs_for_it_and_notes_the_plain_command(tmp_path: Path) -> None:
    text = SMALL.replace('why = "few files"', 'again = ["replace=true"]\nwhy = "few files"')
    schedule = load_schedule(_written(tmp_path, text), {"root": str(tmp_path)})
    started: list[str] = []

    def outcomes(*, again: bool) -> list[str]:
        def start(command: Command) -> int:
            started.append(command.words[-1])
            return 0

        return [one.outcome for one in run_days(schedule, schedule.flows[0], [DAY], start=start, again=again)]

    assert outcomes(again=False) == ["ran", "ran"]
    assert outcomes(again=True) == ["ran", "ran"]
    assert started == ["before=2026-11-23", "day=2026-11-22", "replace=true", "day=2026-11-22"]
    assert outcomes(again=False) == ["before", "before"]


def test_what_is_done_of_a_day_that_is_not_over_is_done_again(tmp_path: Path) -> None:
    """Else the morning after, evidence and verdicts of the other half of the day would be passed over as done."""
    text = SMALL.replace('why = "few files"', 'again = ["replace=true"]\nwhy = "few files"')
    schedule = load_schedule(_written(tmp_path, text), {"root": str(tmp_path)})
    started: list[str] = []

    def start(command: Command) -> int:
        started.append(command.words[-1])
        return 0

    today = datetime.now(UTC).date()
    for day, second in ((today, "ran"), (today - timedelta(days=2), "before")):
        outcomes = [
            [one.outcome for one in run_days(schedule, schedule.flows[0], [day], start=start)] for _ in range(2)
        ]
        assert outcomes == [["ran", "ran"], [second, second]]
    assert started[2] == "replace=true", "a half day of scores is replaced"


def test_what_ships_replaces_a_scored_day_when_it_is_run_again() -> None:
    (score,) = [command for command in _shipped() if command.words[1] == "jobs.relevance_score"]
    module = importlib.import_module("jobs.relevance_score")
    assert load_settings(module.ScoreJob, [*score.words[3:], *score.again]).replace


def test_dag_files_stand_for_themselves(tmp_path: Path) -> None:
    """Airflow's environment has nothing of this project: what lies in its folder imports only itself and Airflow."""
    schedule = load_schedule(_written(tmp_path))
    for _ in range(2):
        files = render_airflow(schedule, str(tmp_path / "dags"))
    assert sorted(Path(name).name for name in files) == ["airflow_dags.py", "cancellation.schedule.json", "ray_jobs.py"]
    for name in files:
        assert "import cluster" not in Path(name).read_text()
        assert "from cluster" not in Path(name).read_text()
    (flow,) = json.loads((tmp_path / "dags" / "cancellation.schedule.json").read_text())["flows"]
    assert [step["name"] for step in flow["steps"]] == ["compact", "monitor"]
    assert "'before={next_day}'" in flow["steps"][0]["entrypoint"], "the day is filled in when it is run"
