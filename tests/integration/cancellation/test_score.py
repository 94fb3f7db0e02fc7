"""The verdict backfill on a local Ray and a real S3 API: rows conserved, once, whatever breaks on the way."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from cancellation.decision.policy import Policy, load_policy
from cancellation.decision.verdicts import verdicts_of_table
from cancellation.events.table import write_labelled
from cancellation.scoring.report import ScoringReport
from cancellation.scoring.run import ScoringSettings, VerdictRun, open_run, read_verdicts, score_backfill
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster import storage
from cluster.commit import Output
from cluster.tracking import TrackedRun, tracking_uri
from jobs.cancellation_score import ScoreJob, main
from tests.builders.backfills import BROKEN, BreakingLoader, model_folder, read_rows, write_backfill
from tests.builders.verdict_models import load_word_model
from tests.conftest import PROJECT

pytestmark = pytest.mark.usefixtures("local_ray")
CONTRACT = Draft202012Validator(
    json.loads((resources.files("cancellation.events") / "schemas" / "verdict.schema.json").read_text())
)
SHIPPED = PROJECT / "cancellation" / "small_model"


def open_words(
    input_url: str, output: str, folder: Path, *, policy: Policy | None = None, **changes: object
) -> VerdictRun:
    settings = ScoringSettings(**{"shard_bytes": 40_000, "max_actors": 1, "max_failed_fraction": 0.2, **changes})
    return open_run(
        input_url,
        output,
        model_folder(folder / "words"),
        policy or load_policy(),
        settings,
        cache_dir=str(folder / "cache"),
        load=load_word_model,
    )


def test_a_backfill_on_s3_is_judged_once_and_no_row_is_lost(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    num_lines = write_backfill(f"{bucket}/events/a.jsonl")
    num_lines += write_backfill(f"{bucket}/events/b.jsonl", 20, broken=False, seed=2)
    run = open_words(f"{bucket}/events", f"{bucket}/verdicts", tmp_path)
    report = ScoringReport(run, TrackedRun("test", "test", tracking_uri()))
    scored = score_backfill(run, extras=report.files, load=load_word_model)
    assert (scored.counts.read, scored.counts.scored, scored.counts.failed) == (num_lines, num_lines - 3, 3)
    rows = read_rows(run.output.url)
    assert [row["place"] for row in rows] == [f"a.jsonl:{n}" for n in range(1, 64)] + [
        f"b.jsonl:{n}" for n in range(1, 21)
    ]
    bad = {row["place"]: row["error"] for row in rows if row["error"]}
    assert set(bad) == {f"a.jsonl:{place + 1}" for place in BROKEN}
    assert bad["a.jsonl:4"].startswith("event: expected JSON")
    good = read_verdicts(run.output.url)
    for verdict in verdicts_of_table(good.filter(good["error"].is_null())):
        CONTRACT.validate(verdict)
    assert not storage.exists(f"{run.output.url}/_staging")
    recorded = json.loads(storage.read_bytes(f"{run.output.url}/run.json"))
    assert (recorded["model"], recorded["counts"]["read"]) == ("words@1", num_lines)
    report.print_summary(scored)
    printed = capsys.readouterr().out
    assert f"{num_lines} read" in printed
    assert "label \\ verdict" in printed

    before = storage.read_bytes(f"{run.output.url}/_SUCCESS")
    again = score_backfill(run, load=load_word_model)
    assert again.already_done
    assert again.counts.as_dict() == scored.counts.as_dict()
    assert storage.read_bytes(f"{run.output.url}/_SUCCESS") == before
    other = Policy("p2", load_policy().default, {})
    with pytest.raises(ValueError, match="holds a run with different policy"):
        score_backfill(open_words(f"{bucket}/events", f"{bucket}/verdicts", tmp_path, policy=other))


@pytest.mark.parametrize("written", ["", "_temporary/0/e.jsonl", "e.jsonl"])
def test_events_that_are_not_there_yet_are_asked_for_again(tmp_path: Path, written: str) -> None:
    """Status 1 (RuntimeError), which schedulers try again, and no claim that keeps the rows out which come later."""
    if written:
        storage.write_bytes(f"{tmp_path}/events/{written}", b"\n")
    job = ScoreJob(
        input=f"{tmp_path}/events",
        output=f"{tmp_path}/out",
        scoring=ScoringSettings(max_actors=1),
    )
    with pytest.raises(RuntimeError, match=r"run again when its events are there"):
        main(job)
    assert storage.list_files(f"{tmp_path}/out") == []
    write_backfill(f"{tmp_path}/events/e.jsonl", 5, broken=False)
    shutil.rmtree(tmp_path / "events" / "_temporary", ignore_errors=True)  # as a writer that commits
    marked = ScoringSettings(max_actors=1, require_marker="_SUCCESS")
    with pytest.raises(RuntimeError, match=r"events: no _SUCCESS there \(scoring\.require_marker\): run again when"):
        main(job.model_copy(update={"scoring": marked}))
    main(job)
    assert len(read_rows(f"{tmp_path}/out")) == 5


def test_verdicts_do_not_depend_on_how_the_backfill_is_cut_or_stored(tmp_path: Path) -> None:
    events = list(simulate(SimulationSettings(num_events=50), 9))
    write_labelled(str(tmp_path / "lines" / "e.jsonl"), events)
    write_labelled(str(tmp_path / "table" / "e.parquet"), events)
    outputs = []
    for name, cut in (("lines", 10_000), ("lines", 10**9), ("table", 1)):
        run = open_words(str(tmp_path / name), str(tmp_path / f"out-{name}-{cut}"), tmp_path, shard_bytes=cut)
        score_backfill(run, load=load_word_model)
        outputs.append([{**row, "place": row["place"].partition(":")[2]} for row in read_rows(run.output.url)])
    assert outputs[0] == outputs[1] == outputs[2]
    assert len(outputs[0]) == 50


def test_a_shard_that_kills_the_model_is_given_up_and_the_rest_is_judged(tmp_path: Path) -> None:
    write_backfill(str(tmp_path / "e.jsonl"), 40, broken=False)
    run = open_words(str(tmp_path / "e.jsonl"), str(tmp_path / "out"), tmp_path, max_failed_fraction=0.9)
    scored = score_backfill(run, load=BreakingLoader("sim-train-1-00000002", "dies"))
    rows = read_rows(run.output.url)
    assert len(rows) == scored.counts.read == 40
    lost = [row for row in rows if row["error"]]
    assert 0 < len(lost) < 40
    assert {row["error"] for row in lost} == {"model: died 3 times on this shard, last: RuntimeError"}
    assert "secret" not in json.dumps(rows)


@pytest.mark.slow
def test_a_backfill_is_judged_anew_where_it_may_be_replaced(tmp_path: Path) -> None:
    write_backfill(f"{tmp_path}/events/a.jsonl", 40, broken=False)
    run = open_words(f"{tmp_path}/events", str(tmp_path / "out"), tmp_path, max_failed_fraction=0.9)
    assert score_backfill(run, load=BreakingLoader("sim-train-1-00000002", "dies")).counts.failed
    run = replace(run, output=Output(run.output.url))
    assert score_backfill(run, load=load_word_model).already_done, "nothing is done anew unasked"

    mended = score_backfill(run, load=load_word_model, replace_other=True)
    assert (mended.already_done, mended.counts.read, mended.counts.failed) == (False, 40, 0)
    assert [row["error"] for row in read_rows(run.output.url)] == [None] * 40
    assert score_backfill(run, load=load_word_model, replace_other=True).already_done

    write_backfill(f"{tmp_path}/events/late.jsonl", 5, broken=False, seed=2)
    with pytest.raises(ValueError, match="different input_files"):
        score_backfill(run, load=load_word_model)
    assert len(read_rows(run.output.url)) == 40
    later = score_backfill(replace(run, output=Output(run.output.url)), load=load_word_model, replace_other=True)
    assert (later.already_done, later.counts.read, len(read_rows(run.output.url))) == (False, 45, 45)


def test_broken_weights_stop_the_job_with_a_sentence_and_a_rerun_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_backfill(str(tmp_path / "e.jsonl"), 80, broken=False)
    run = open_words(str(tmp_path / "e.jsonl"), str(tmp_path / "out"), tmp_path, shard_bytes=60_000)
    with pytest.raises(Exception, match="finite logits are expected from the model"):
        score_backfill(run, load=BreakingLoader("sim-train-1-00000079", "nan"))
    finished = run.output.manifests("shards")
    assert finished
    assert run.output.job_manifest() is None
    capfd.readouterr()
    scored = score_backfill(run, load=load_word_model)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("shard ")]
    assert lines[0].startswith(f"shard {len(finished) + 1} of ")
    assert (scored.counts.read, scored.counts.failed) == (80, 0)
    assert len({row["event_id"] for row in read_rows(run.output.url)}) == 80


def test_too_many_bad_rows_publish_nothing_and_name_the_reasons(tmp_path: Path) -> None:
    write_backfill(str(tmp_path / "e.jsonl"), 30)
    run = open_words(str(tmp_path / "e.jsonl"), str(tmp_path / "out"), tmp_path, max_failed_fraction=0.01)
    with pytest.raises(ValueError, match=r"9\.09% of 33 rows could not be scored.*expected JSON"):
        score_backfill(run, load=load_word_model)
    assert not (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.skipif(not (SHIPPED / "model.json").exists(), reason="no model ships yet")
def test_the_job_with_the_model_and_the_policy_that_ship(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = simulate(SimulationSettings(num_events=300, split="test_wordings"), 8001)
    write_labelled(str(tmp_path / "e.jsonl"), events)
    job = ScoreJob(
        input=str(tmp_path / "e.jsonl"), output=str(tmp_path / "out"), scoring=ScoringSettings(explain=False)
    )
    main(job)
    printed = capsys.readouterr().out
    assert "300 read, 300 scored, 0 failed" in printed
    rows = read_rows(str(tmp_path / "out"))
    right = sum(row["verdict"] == row["label"] for row in rows)
    most_frequent = Counter(row["label"] for row in rows).most_common(1)[0][1]
    assert right > most_frequent + 10
    main(job)
    assert "Already done" in capsys.readouterr().out
