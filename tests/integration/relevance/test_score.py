"""The whole scoring job as a user calls it, on a local Ray and a real S3 API."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from cluster import storage
from cluster.commit import read_job_manifest
from jobs.relevance_score import ScoreJob, main
from relevance.labels import LABELS
from relevance.scoring.run import ScoringSettings
from tests.builders.pairs_data import make_pairs, read_committed, read_visible, write_pairs
from tests.conftest import SHARED_DATA

pytestmark = pytest.mark.usefixtures("local_ray")


def _job(input_url: str, output: str, model: Path | str, **scoring: object) -> ScoreJob:
    settings = ScoringSettings(**{"shard_rows": 100, "num_threads": 2, **scoring})
    return ScoreJob(input=input_url, output=output, model=str(model), scoring=settings)


def _figures(url: str) -> dict:
    manifest = read_job_manifest(url)
    assert manifest is not None
    return manifest["figures"]


@pytest.fixture
def days(bucket: str) -> str:
    """Two days of pairs, the second nine tenths the first; the input's root."""
    write_pairs(make_pairs(300), f"{bucket}/pairs/ds=2026-11-21")
    second = pa.concat_tables([make_pairs(270, first=30), make_pairs(30, first=1000)])
    write_pairs(second, f"{bucket}/pairs/ds=2026-11-22")
    return bucket


def test_a_day_from_s3_to_committed_labels_and_the_next_for_a_tenth(
    days: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = _job(f"{days}/pairs/ds=2026-11-21", f"{days}/scores", tiny_model)
    main(job)
    first_url = f"{days}/scores/ds=2026-11-21"
    rows = read_committed(first_url)
    assert rows == read_visible(first_url)
    assert {(row["query_id"], row["product_id"]) for row in rows} == {
        (row["query_id"], row["product_id"]) for row in make_pairs(300).to_pylist()
    }
    assert {row["label"] for row in rows} <= set(LABELS)
    assert all(row["error"] is None and 0 < row["label_mass"] <= 1 for row in rows)
    first = _figures(first_url)
    assert {name: count for name, count in first["counts"].items() if count} == {"read": 300, "labelled": 300}
    assert first["computed_tokens"] < 0.5 * first["prompt_tokens"]
    assert not storage.exists(f"{first_url}/_staging")
    run = json.loads(storage.read_bytes(f"{first_url}/run.json"))
    assert run["counts"]["read"] == 300
    assert b"<html" in storage.read_bytes(f"{first_url}/report.html")
    assert "300 read" in capsys.readouterr().out

    before = storage.read_bytes(f"{first_url}/_SUCCESS")
    main(job)
    assert storage.read_bytes(f"{first_url}/_SUCCESS") == before
    assert "already done" in capsys.readouterr().out.lower()

    main(_job(f"{days}/pairs/ds=2026-11-22", f"{days}/scores", tiny_model))
    second = _figures(f"{days}/scores/ds=2026-11-22")
    assert (second["counts"]["reused"], second["counts"]["labelled"]) == (270, 30)
    assert second["computed_tokens"] <= 0.2 * first["computed_tokens"]
    both = {(row["query_id"], row["product_id"]): row for row in rows}
    again = read_committed(f"{days}/scores/ds=2026-11-22")
    shared = [row for row in again if (row["query_id"], row["product_id"]) in both]
    assert len(shared) == 270
    assert all(row == both[row["query_id"], row["product_id"]] for row in shared)


def test_scores_do_not_depend_on_how_the_day_is_cut(tmp_path: Path, tiny_model: Path) -> None:
    pairs = make_pairs(120)
    write_pairs(pairs, str(tmp_path / "one"), num_files=1)
    write_pairs(pairs.slice(60), str(tmp_path / "other"), num_files=3)
    main(_job(str(tmp_path / "one"), str(tmp_path / "a"), tiny_model))
    main(_job(str(tmp_path / "other"), str(tmp_path / "b"), tiny_model))
    whole = {row["query_id"]: row for row in read_committed(str(tmp_path / "a"))}
    for row in read_committed(str(tmp_path / "b")):
        for name in ("p_exact", "p_substitute", "p_complement", "p_irrelevant", "label_mass"):
            assert row[name] == pytest.approx(whole[row["query_id"]][name], abs=1e-4)


def test_the_sample_with_the_model_that_ships(tmp_path: Path) -> None:
    main(_job("relevance/sample.parquet", str(tmp_path / "scores"), "relevance/small_model", shard_rows=2000))
    figures = _figures(str(tmp_path / "scores"))
    assert figures["counts"]["read"] == 5000
    assert figures["counts"]["repeated"] == 100
    assert 0 < figures["counts"]["failed"] < 20
    assert figures["agreement"]["pairs"] > 4900
    assert figures["agreement"]["alpha"] > 0.4
    assert figures["cached_fraction"] > 0.5
    assert figures["mean_label_mass"] > 0.9
    rows = read_committed(str(tmp_path / "scores"))
    assert Counter(row["error"] is None for row in rows)[False] == figures["counts"]["failed"]


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the real pairs are not at hand")
def test_the_real_pairs_as_csv(tmp_path: Path) -> None:
    pairs = str(SHARED_DATA / "esci" / "labelled_pairs.csv")
    main(_job(pairs, str(tmp_path / "scores"), "relevance/small_model", shard_rows=500))
    figures = _figures(str(tmp_path / "scores"))
    assert figures["counts"]["read"] == 974
    assert figures["agreement"]["pairs"] == 974


def test_an_estimate_writes_nothing(days: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = _job(f"{days}/pairs/ds=2026-11-21", f"{days}/estimated", tiny_model)
    main(job.model_copy(update={"estimate": True}))
    printed = capsys.readouterr().out
    assert "about 300 rows, 300 of them sampled" in printed
    assert "to compute 100.0%, known 0.0%" in printed
    assert "1 actor: " in printed
    assert not storage.exists(f"{days}/estimated")


def test_carried_columns_reach_the_output(tmp_path: Path, tiny_model: Path) -> None:
    pairs = make_pairs(20).append_column("rank", pa.array(range(20), pa.int16()))
    write_pairs(pairs, str(tmp_path / "pairs"))
    main(_job(str(tmp_path / "pairs"), str(tmp_path / "scores"), tiny_model, carry=("rank",)))
    ranks = dict(zip(pairs["query_id"].to_pylist(), pairs["rank"].to_pylist(), strict=True))
    assert {row["query_id"]: row["rank"] for row in read_committed(str(tmp_path / "scores"))} == ranks


def test_a_carried_column_may_not_take_an_output_columns_name() -> None:
    with pytest.raises(ValueError, match="label: a name of the output's or the job's own columns; rename it"):
        ScoringSettings(carry=("label",))


def test_too_many_bad_rows_stop_the_job_with_counts_and_reasons(tmp_path: Path, tiny_model: Path) -> None:
    rows = make_pairs(95).to_pylist() + [{**row, "query": " "} for row in make_pairs(5, first=500).to_pylist()]
    write_pairs(pa.Table.from_pylist(rows), str(tmp_path / "pairs"))
    job = _job(str(tmp_path / "pairs"), str(tmp_path / "scores"), tiny_model)
    with pytest.raises(ValueError, match=r"5\.00% of 100 rows have errors, at most 1\.00% may .* query: blank \(5\)"):
        main(job)
    assert read_visible(str(tmp_path / "scores")) == []
    main(_job(str(tmp_path / "pairs"), str(tmp_path / "scores"), tiny_model, max_failed_fraction=0.1))
    assert _figures(str(tmp_path / "scores"))["counts"]["failed"] == 5


def test_a_missing_column_stops_before_a_model_is_loaded(tmp_path: Path, tiny_model: Path) -> None:
    write_pairs(make_pairs(10).drop_columns(["title"]), str(tmp_path / "pairs"), num_files=1)
    with pytest.raises(ValueError, match=r"pairs-0\.parquet: column 'title' is missing"):
        main(_job(str(tmp_path / "pairs"), str(tmp_path / "scores"), tiny_model))
    assert not (tmp_path / "scores").exists()


@pytest.mark.slow
def test_another_model_may_not_write_into_a_days_output(tmp_path: Path, tiny_model: Path) -> None:
    write_pairs(make_pairs(10), str(tmp_path / "pairs"))
    main(_job(str(tmp_path / "pairs"), str(tmp_path / "scores"), tiny_model))
    with pytest.raises(ValueError, match="holds a run with different fingerprint, model: choose another output"):
        main(_job(str(tmp_path / "pairs"), str(tmp_path / "scores"), "relevance/small_model"))


def test_a_model_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model models:/relevance@champion: not in the MLflow registry"):
        main(_job("relevance/sample.parquet", str(tmp_path / "scores"), "models:/relevance@champion"))


def test_pairs_that_are_not_there_yet_are_asked_for_again(bucket: str, tiny_model: Path) -> None:
    """Status 1 (RuntimeError), which schedulers try again, and no claim that keeps the rows out which come later."""
    input_url, output = f"{bucket}/pairs/ds=2026-11-22", f"{bucket}/scores/ds=2026-11-22"
    with pytest.raises(RuntimeError, match=r"nothing is at .*ds=2026-11-22: run again when its pairs are there"):
        main(_job(input_url, f"{bucket}/scores", tiny_model))
    for name in ("", "_temporary/0/part-00000.parquet", ".part-00000.parquet.crc"):  # as a writer begins
        s3, path = storage.open_filesystem(bucket)
        s3.call_s3("put_object", Bucket=path, Key=f"pairs/ds=2026-11-22/{name}")
    with pytest.raises(RuntimeError, match=r"nothing is at .*ds=2026-11-22: run again when its pairs are there"):
        main(_job(input_url, f"{bucket}/scores", tiny_model))
    storage.write_bytes(f"{input_url}/a.csv", b"query_id,product_id,query,title\n")
    with pytest.raises(RuntimeError, match=r"ds=2026-11-22/_temporary: a writer is at work there .*: run again when"):
        main(_job(input_url, f"{bucket}/scores", tiny_model))
    s3.rm_file(f"{path}/pairs/ds=2026-11-22/_temporary/0/part-00000.parquet")
    with pytest.raises(RuntimeError, match=r"no row there: .*scoring\.allow_empty=true"):
        main(_job(input_url, f"{bucket}/scores", tiny_model))
    assert storage.list_files(output) == []
    write_pairs(make_pairs(20), input_url)
    marked = _job(input_url, f"{bucket}/scores", tiny_model, require_marker="_SUCCESS")
    with pytest.raises(RuntimeError, match=r"no _SUCCESS there \(scoring.require_marker\)"):
        main(marked)
    storage.write_bytes(f"{input_url}/_SUCCESS", b"")
    main(marked)
    assert _figures(output)["counts"]["read"] == 20
    storage.write_bytes(f"{bucket}/pairs/ds=2026-11-23/a.csv", b"query_id,product_id,query,title\n")
    main(_job(f"{bucket}/pairs/ds=2026-11-23", f"{bucket}/scores", tiny_model, allow_empty=True))
    assert _figures(f"{bucket}/scores/ds=2026-11-23")["counts"]["read"] == 0


@pytest.mark.slow
def test_a_day_whose_pairs_came_late_is_replaced(bucket: str, tiny_model: Path) -> None:
    input_url, output = f"{bucket}/pairs/ds=2026-11-22", f"{bucket}/scores/ds=2026-11-22"
    job = _job(input_url, f"{bucket}/scores", tiny_model)
    again = job.model_copy(update={"replace": True})
    write_pairs(make_pairs(60), input_url)
    main(job)
    before = storage.read_bytes(f"{output}/_SUCCESS")
    main(again)
    assert storage.read_bytes(f"{output}/_SUCCESS") == before, "what has not changed is done"
    rows = "".join(f"late{row},late{row},bat {row},Bat number {row}\n" for row in range(5))
    storage.write_bytes(f"{input_url}/late.csv", f"query_id,product_id,query,title\n{rows}".encode())
    with pytest.raises(ValueError, match="different input_files"):
        main(job)
    storage.write_bytes(f"{output}/notes.txt", b"ours")
    strict = again.scoring.model_copy(update={"max_failed_fraction": 0.0})
    storage.write_bytes(f"{input_url}/late-2.csv", b"query_id,product_id,query,title\nq,p, ,Bat\n")
    with pytest.raises(ValueError, match="nothing was published"):
        main(again.model_copy(update={"scoring": strict}))
    assert storage.read_bytes(f"{output}/_SUCCESS") == before, "what fails its checks costs no scores"
    assert len(read_visible(output)) == 60
    storage.remove(f"{input_url}/late-2.csv")
    main(again)
    assert read_committed(output) == read_visible(output)
    counts = _figures(output)["counts"]
    assert {name: count for name, count in counts.items() if count} == {"read": 65, "labelled": 5, "reused": 60}
    assert storage.exists(f"{output}/notes.txt")
    for file in storage.list_files(input_url):
        storage.remove(file.url)
    storage.write_bytes(f"{input_url}/broken.csv", b"")
    with pytest.raises((RuntimeError, ValueError)):
        main(again)
    assert _figures(output)["counts"]["read"] == 65, "a broken upload costs no scores"
