"""Days of a schedule: real jobs as processes and as jobs of a real Ray head, done once, again, and after a failure."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cancellation.monitoring.triggers import RetrainDecision, SubmitSettings, submit_retraining
from cluster.schedule.plan import Schedule, load_schedule
from cluster.schedule.ray_jobs import RayJobError, RayJobs
from cluster.schedule.runner import Done, run_days, run_here, run_on
from jobs.schedule import ScheduleJob, main
from tests.builders.monitored_days import DAY, decisions, feedback, ship, ship_feedback
from tests.builders.pairs_data import make_pairs, read_committed, write_pairs
from tests.conftest import PROJECT
from tests.integration.cluster.flaky_proxy import Fault, flaky_proxy
from tests.servers.ray_head import guarded_head

DAYS = [DAY - timedelta(days=1), DAY]
FILE = """
product = "cancellation"
record = "{root}/schedule"
[values]
root = "var"
[[flows]]
name = "daily"
at = "0 2 * * *"
[[flows.steps]]
name = "compact"
job = "cancellation_compact"
arguments = ["archive={root}/archive", "before={next_day}"]
why = "few files"
[[flows.steps]]
name = "cost"
job = "relevance_cost"
arguments = ["{root}/cost-{day}.toml"]
why = "a step that fails while its file is not there"
[[flows.steps]]
name = "after"
job = "cancellation_compact"
arguments = ["archive={root}/archive", "before={day}"]
after = ["cost"]
why = "waits for it"
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_comes_after_a_day_that_does_not_look_fine_waits(
    local_ray: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The shipped day of the relevance product, by random weights, whose labels have no mass."""
    monkeypatch.setenv("RAY_ADDRESS", local_ray)
    write_pairs(make_pairs(120), str(tmp_path / "pairs" / f"ds={DAY}"))
    places = {"root": str(tmp_path), "model": str(tiny_model)}
    with pytest.raises(RuntimeError, match="2 of 2 steps are not done"):
        main(ScheduleJob(product="relevance", day=DAY, values=places))
    said = capfd.readouterr()
    assert "score: FAILED with status 3 (done, but it does not look fine)" in said.out
    assert "monitor: not run: score first" in said.out
    assert f"ds={DAY}: committed, but it does not look fine (Label mass: 0." in said.err
    assert len(read_committed(str(tmp_path / "scores" / f"ds={DAY}"))) == 120
    main(ScheduleJob(product="relevance", day=DAY, values={**places, "must_be_fine": "false"}))
    assert "all 2 steps are done, 2 of them now" in capfd.readouterr().out


@pytest.fixture
def schedule(tmp_path: Path) -> Schedule:
    """An archive of two days in small files, and a schedule on it."""
    for day in DAYS:
        ship(tmp_path / "archive", decisions(day, 120, markets=("BR",), fallback=0.0))
        (tmp_path / f"cost-{day}.toml").write_bytes((PROJECT / "jobs" / "relevance_cost.toml").read_bytes())
    (tmp_path / "schedule.toml").write_text(FILE)
    return load_schedule(tmp_path / "schedule.toml", {"root": str(tmp_path)})


def _outcomes(found: list[Done]) -> list[str]:
    return [f"{done.command.day.day} {done.command.step} {done.outcome}" for done in found]


@pytest.mark.slow  # a minute and a half of jobs one after the other
@pytest.mark.timeout(300)
def test_a_trigger_opens_a_round_once_for_each_model(head: dict[str, str], tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    today = decisions(DAY, 200, markets=("BR",), fallback=0.0)
    ship(tmp_path / "archive", today)
    ship_feedback(tmp_path / "archive", feedback(today, DAY, 3, precision=0.0))
    settings = [
        f"archive={tmp_path}/archive",
        f"day={DAY}",
        f"output={tmp_path}/out",
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
        "monitor.drift.text_sample=0",
        "monitor.triggers.wrong_predictions=2",
        f"submit.address={head['RAY_API_SERVER_ADDRESS']}",
    ]

    def monitor(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jobs.cancellation_monitor", *settings, *more]
        return subprocess.run(command, env={**os.environ, **head}, cwd=PROJECT, capture_output=True, text=True)

    unfilled = monitor()
    assert unfilled.returncode == 2
    assert "monitor.triggers.relabel" in unfilled.stderr
    assert "LABELLED and PERSON_KEY" in unfilled.stderr
    filled = f"monitor.triggers.relabel=bash -c 'echo DAY >> {opened}'"
    first = monitor(filled).stdout
    (name,) = re.findall(r"(relabel-after-small-1-[0-9a-f]{8}) submitted", first)
    while not opened.exists():
        time.sleep(0.05)
    assert f"submitted on {DAY}: {name}; not again for this model" in monitor(filled).stdout
    (tmp_path / "out" / "retraining.json").unlink()  # as after a death between submitting and noting it
    assert f"{name} was submitted before" in monitor(filled).stdout
    assert opened.read_text() == f"{DAY}\n"


@pytest.mark.timeout(300)
def test_the_rounds_of_two_monitors_on_one_cluster_are_two(head: dict[str, str], tmp_path: Path) -> None:
    decision = RetrainDecision(str(DAY), "model/7", True, (), relabel="true", command="true")
    submit, lines = SubmitSettings(address=head["RAY_API_SERVER_ADDRESS"]), []
    for place in ("production", "staging"):
        lines += submit_retraining(decision, str(tmp_path / place), submit, token=head["RAY_AUTH_TOKEN"])
    names = [re.fullmatch(r"(relabel-after-model-7-[0-9a-f]{8}) submitted: true", line)[1] for line in lines]
    assert len({*names}) == 2


@pytest.mark.timeout(300)
def test_a_span_of_days_goes_on_where_it_stopped(schedule: Schedule, tmp_path: Path) -> None:
    (flow,) = schedule.flows
    missing = tmp_path / f"cost-{DAYS[0]}.toml"
    kept = missing.read_bytes()
    missing.unlink()
    first = list(run_days(schedule, flow, DAYS, start=run_here))
    assert _outcomes(first) == [
        *["21 compact ran", "21 cost failed", "21 after waited"],
        *["22 compact ran", "22 cost ran", "22 after ran"],
    ]
    assert first[1].status == 2
    assert len(list((tmp_path / "archive").rglob("*.parquet"))) == 2, "one file a market and day is left"

    missing.write_bytes(kept)
    second = list(run_days(schedule, flow, DAYS, start=run_here))
    assert [done.outcome for done in second].count("before") == 4
    assert _outcomes(second)[1:3] == ["21 cost ran", "21 after ran"]

    third = list(run_days(schedule, flow, DAYS[:1], start=run_here, again=True))
    assert [done.outcome for done in third] == ["ran"] * 3
    note = tmp_path / "schedule" / "cancellation" / "daily" / str(DAYS[0]) / "compact.json"
    note.write_bytes(note.read_bytes()[:20])
    cut = list(run_days(schedule, flow, DAYS[:1], start=run_here))
    assert [done.outcome for done in cut] == ["ran", "before", "before"], "a note that is cut off says nothing"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with guarded_head(tmp_path_factory.mktemp("head"), {"PYTHONPATH": str(PROJECT)}) as environment:
        yield environment


def _jobs(head: dict[str, str], **changes: float) -> RayJobs:
    return RayJobs(head["RAY_API_SERVER_ADDRESS"], head["RAY_AUTH_TOKEN"], poll_seconds=0.2, **changes)


@pytest.mark.timeout(300)
def test_a_name_is_one_piece_of_work(head: dict[str, str], tmp_path: Path) -> None:
    jobs, lines = _jobs(head), []
    count, go = tmp_path / "count", tmp_path / "go"
    command = f"echo started >> {count}; until test -e {go}; do sleep 0.1; done; echo all done"
    rival = threading.Thread(target=jobs.run, args=("once", command), kwargs={"say": lines.append})
    rival.start()
    while not count.exists():
        time.sleep(0.05)
    joined = threading.Thread(target=jobs.run, args=("once", command), kwargs={"say": lines.append})
    joined.start()
    while not any("is running already" in line for line in list(lines)):
        time.sleep(0.05)
    go.touch()
    rival.join()
    joined.join()
    assert count.read_text() == "started\n"
    assert sum("all done" in text.splitlines() for text in lines) == 2
    jobs.run("once", command, say=lines.append)
    assert count.read_text() == "started\n" * 2, "what has ended is done anew when it is asked for"


@pytest.mark.timeout(300)
def test_another_command_under_a_name_is_neither_joined_nor_stopped(head: dict[str, str], tmp_path: Path) -> None:
    """As where production and staging share a cluster, or a value changed while yesterday's command still runs."""
    jobs, go, lines = _jobs(head), tmp_path / "go", []
    production = f"until test -e {go}; do sleep 0.1; done; echo production"
    running = threading.Thread(target=jobs.run, args=("shared", production), kwargs={"say": lines.append})
    running.start()
    while not any("submitted" in line for line in list(lines)):
        time.sleep(0.05)
    with pytest.raises(RuntimeError, match=r"shared is running another command \(until .*: echo staging") as refused:
        jobs.run("shared", "echo staging", say=lines.append)
    assert not isinstance(refused.value, RayJobError), "no job of this command has ended"
    jobs.stop("shared", "echo staging")
    go.touch()
    running.join()
    assert "production" in lines[-1].splitlines()
    jobs.run("shared", "echo staging", say=lines.append)
    assert "staging" in lines[-1].splitlines(), "what has ended is in nobody's way"


@pytest.mark.timeout(300)
def test_a_job_is_stopped_by_whoever_has_its_command(head: dict[str, str]) -> None:
    jobs, lines, failed = _jobs(head), [], []

    def wait() -> None:
        try:
            jobs.run("stopped", "sleep 600", say=lines.append)
        except RayJobError as error:
            failed.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not any("submitted" in line for line in list(lines)):
        time.sleep(0.05)
    jobs.stop("stopped", "sleep 600")
    waiting.join()
    assert failed[0].startswith("stopped: stopped, ")


@pytest.mark.timeout(300)
def test_how_a_job_failed_is_told(head: dict[str, str]) -> None:
    jobs, lines = _jobs(head), []
    for _ in range(2):
        with pytest.raises(RayJobError, match=r"wrong(-2)?: failed, status 2; its log is above") as failed:
            jobs.run("wrong", "echo what was wrong; exit 2", say=lines.append)
        assert failed.value.exit_code == 2
    assert sum("what was wrong" in text.splitlines() for text in lines) == 2, lines
    stranger = RayJobs(head["RAY_API_SERVER_ADDRESS"], "another token")
    with pytest.raises(RuntimeError, match=r"GET /api/jobs/ got 40[13]"):
        stranger.run("wrong", "true")
    with pytest.raises(RuntimeError, match=r"no answer .*; is the Ray cluster up\?"):
        RayJobs("http://127.0.0.1:9", poll_seconds=0.01, patience_seconds=0.05).run("x", "true")


@pytest.mark.timeout(300)
def test_answers_that_are_not_rays_are_asked_for_again(head: dict[str, str], tmp_path: Path) -> None:
    count, lines = tmp_path / "count", []
    faults = [
        ("GET /api/jobs/", Fault(503)),
        ("POST /api/jobs/", Fault(429, b"slow down")),
        ("GET /api/jobs/", Fault(502)),
        ("GET /api/jobs/", Fault(200)),  # a page of the proxy's own
        ("GET /api/jobs/", Fault(200, b"{", missing_bytes=100)),
        ("GET /api/jobs/", Fault(500, b"the head is starting")),
    ]
    with flaky_proxy(head["RAY_API_SERVER_ADDRESS"], faults) as proxy:
        RayJobs(proxy.url, head["RAY_AUTH_TOKEN"], poll_seconds=0.2).run(
            "behind-a-proxy", f"echo started >> {count}; echo all done", say=lines.append
        )
        assert not proxy.faults, "each of them was met"
    assert count.read_text() == "started\n"
    assert "all done" in lines[-1].splitlines()


@pytest.mark.timeout(300)
def test_a_submission_whose_answer_was_lost_is_not_made_twice(head: dict[str, str], tmp_path: Path) -> None:
    """Ray calls an id that is taken a fault of its own (500): it is looked up, not asked for again."""
    jobs, go = _jobs(head), tmp_path / "go"
    command = f"until test -e {go}; do sleep 0.1; done"
    jobs.submit("lost", command, say=[].append)
    began = time.monotonic()
    with flaky_proxy(head["RAY_API_SERVER_ADDRESS"], [("GET /api/jobs/", Fault(200, b"[]"))]) as proxy:
        RayJobs(proxy.url, head["RAY_AUTH_TOKEN"], poll_seconds=0.2).submit("lost", command, say=[].append)
    assert time.monotonic() - began < 60, "without the five minutes of patience"
    go.touch()
    jobs.run("lost", command, say=[].append)


@pytest.mark.timeout(300)
def test_a_cluster_that_does_not_answer_fails_a_step_and_not_the_span(
    schedule: Schedule, capsys: pytest.CaptureFixture[str]
) -> None:
    (flow,) = schedule.flows
    html = [("GET /api/jobs/", Fault(200))] * 1000
    with flaky_proxy("http://127.0.0.1:9", html) as proxy:
        nobody = RayJobs(proxy.url, poll_seconds=0.01, patience_seconds=0.05)
        found = list(run_days(schedule, flow, DAYS, start=run_on(nobody)))
    assert [done.outcome for done in found] == ["failed", "failed", "waited"] * 2
    assert found[0].status is None
    said = capsys.readouterr().err
    assert "no answer (GET /api/jobs/ got 200: <html>" in said
    assert "is the Ray cluster up?" in said


@pytest.mark.slow  # the same
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("schedule")
def test_what_ships_as_ray_jobs(
    head: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped day of the cancellation product: forgetting, rejudging, compaction, the monitor."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", head["RAY_AUTH_TOKEN"])
    model = str(PROJECT / "cancellation" / "small_model")
    places = {"root": str(tmp_path), "archive": str(tmp_path / "archive"), "model": model}
    job = ScheduleJob(product="cancellation", day=DAY, address=head["RAY_API_SERVER_ADDRESS"], values=places)
    main(job)
    report = json.loads((tmp_path / "cancellation" / "monitoring" / str(DAY) / "report.json").read_text())
    assert report["figures"]["decisions"] == 120
    notes = tmp_path / "schedule" / "cancellation" / "daily" / str(DAY)
    assert sorted(path.stem for path in notes.iterdir()) == ["compact", "evidence", "forget", "monitor", "rejudge"]
    assert "all 5 steps are done, 5 of them now" in capsys.readouterr().out
    main(job)
    assert "all 5 steps are done, 0 of them now" in capsys.readouterr().out
