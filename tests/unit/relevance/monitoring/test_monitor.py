"""A day of scores beside the one before: what fell, what came and went, and nothing where nothing happened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.relevance_monitor import MonitorJob, main
from relevance.annotation.pairs import key_hashes, read_scores
from relevance.annotation.strata import StrataSettings, draw_pairs, third_edges
from relevance.monitoring.compare import CompareSettings, compare_days
from relevance.monitoring.run import MonitorSettings, monitor_scores
from relevance.monitoring.scores import columns_of
from tests.builders.committed_scores import Pair, commit_scores

EXACT_OF = 6


def day(num_queries: int = 40, exact: int = EXACT_OF) -> list[Pair]:
    """Ten products a query, the first ones exact."""
    return [
        (f"q{query}", f"p{query}-{place}", "exact" if place < exact else "irrelevant")
        for query in range(num_queries)
        for place in range(10)
    ]


def changed(pairs: list[Pair], query: str, place: int, label: str) -> list[Pair]:
    return [(q, p, label if q == query and p.endswith(f"-{place}") else old) for q, p, old in pairs]


def test_two_equal_days_have_nothing_to_tell(tmp_path: Path) -> None:
    commit_scores(tmp_path, "ds=2026-11-21", day())
    url = commit_scores(tmp_path, "ds=2026-11-22", day())
    found = monitor_scores(url, MonitorSettings())
    assert found.findings == []
    assert found.comparison.churn == 0
    assert (found.comparison.kept, found.comparison.came, found.comparison.went) == (400, 0, 0)
    assert found.comparison.fallen == []
    assert found.yesterday.name == "ds=2026-11-21"


def test_a_query_that_fell_is_named_with_its_products(tmp_path: Path) -> None:
    commit_scores(tmp_path, "ds=2026-11-21", day())
    pairs = [pair for pair in changed(day(), "q7", 1, "substitute") if pair[1] != "p7-0"]
    pairs.append(("q7", "new", "irrelevant"))
    url = commit_scores(tmp_path, "ds=2026-11-22", pairs)
    found = monitor_scores(url, MonitorSettings())
    (fallen,) = found.comparison.fallen
    assert (fallen.query_id, fallen.exact_before, fallen.exact) == ("q7", 0.6, 0.4)
    assert fallen.came == ["new irrelevant"]
    assert fallen.went == ["p7-0 exact"]
    assert fallen.changed == ["p7-1 exact → substitute"]
    assert found.comparison.moves.sum() == 399
    assert "0.3% of 399 pairs of both days have another label under the same model" in found.findings[0]


def test_another_model_may_have_other_labels(tmp_path: Path) -> None:
    commit_scores(tmp_path, "ds=2026-11-21", day())
    url = commit_scores(tmp_path, "ds=2026-11-22", changed(day(), "q1", 0, "substitute"), fingerprint="another")
    findings = monitor_scores(url, MonitorSettings()).findings
    assert findings == ["other model or guidelines than on ds=2026-11-21: labels may differ for that alone"]


def test_parts_give_what_the_whole_gives(tmp_path: Path) -> None:
    before = commit_scores(tmp_path, "ds=2026-11-21", day())
    pairs = [pair for pair in changed(day(), "q3", 2, "complement") if pair[0] != "q9"]
    url = commit_scores(tmp_path, "ds=2026-11-22", pairs, more={"market": ["BR", "TH"] * (len(pairs) // 2)})
    whole = compare_days(url, before, 400, CompareSettings())
    parts = compare_days(
        url, before, 400, CompareSettings.model_construct(**{**dict(CompareSettings()), "rows_per_part": 90})
    )
    assert (whole.moves == parts.moves).all()
    for name in ("shares", "came", "went", "queries", "queries_before", "fallen"):
        assert getattr(whole, name) == getattr(parts, name)
    assert whole.to_annotate[:1] == parts.to_annotate[:1]
    assert (whole.went, whole.queries, whole.queries_before) == (10, 39, 40)


def test_shares_by_a_carried_column_and_the_exact_share_of_the_first_places(tmp_path: Path) -> None:
    pairs = day()
    more = {"market": ["BR"] * 100 + ["TH"] * 300, "rank": [place % 10 + 1 for place in range(400)]}
    commit_scores(tmp_path, "ds=2026-11-21", pairs, more=more)
    url = commit_scores(tmp_path, "ds=2026-11-22", day(exact=2), more=more)
    settings = MonitorSettings(compare=CompareSettings(first=5))
    found = monitor_scores(url, settings)
    assert columns_of(url)[-2:] == ["market", "rank"]
    assert found.comparison.shares["market"]["BR"] == ([20, 0, 0, 80], [60, 0, 0, 40])
    assert found.comparison.quality[0] == pytest.approx(0.4)
    assert found.comparison.quality_before[0] == pytest.approx(1.0)
    assert "exact among the first 5 of a query 40.0%, before 100.0%" in found.findings
    assert "exact 20.0%, usually 60.0%" in found.findings


def test_ranks_of_a_text_file_with_blank_cells_are_ranks(tmp_path: Path) -> None:
    numbers = [place % 10 + 1 for place in range(400)]
    commit_scores(tmp_path, "ds=2026-11-21", day(), more={"rank": numbers})
    texts = [str(number) if number <= 5 else " " for number in numbers]
    url = commit_scores(tmp_path, "ds=2026-11-22", day(exact=2), more={"rank": texts})
    found = monitor_scores(url, MonitorSettings(compare=CompareSettings(first=5)))
    assert found.comparison.quality[0] == pytest.approx(0.4)


def test_a_repeated_key_is_one_pair(tmp_path: Path) -> None:
    commit_scores(tmp_path, "ds=2026-11-21", day())
    url = commit_scores(tmp_path, "ds=2026-11-22", [*day(), *day(3)])
    assert monitor_scores(url, MonitorSettings()).comparison.kept == 400


def test_an_empty_day_is_told_and_none_is_measured_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit_scores(tmp_path, "ds=2026-11-21", day())
    empty = commit_scores(tmp_path, "ds=2026-11-22", [])
    main(MonitorJob(scores=empty, output=str(tmp_path / "out")))
    record = json.loads((tmp_path / "out" / "ds=2026-11-22" / "report.json").read_text())
    assert record["findings"] == ["rows: no row was read (expected at least one)"]
    assert not record["fine"]
    assert "no row was read" in capsys.readouterr().out
    url = commit_scores(tmp_path, "ds=2026-11-23", day(4))
    found = monitor_scores(url, MonitorSettings())
    assert found.yesterday.name == "ds=2026-11-21"
    assert found.findings[:2] == [
        "rows read: -90.0% against ds=2026-11-21 (expected within 50% of the day before)",
        "1 day has no scores, or none with a row: 2026-11-22",
    ]


def test_days_that_nobody_scored_are_told(tmp_path: Path) -> None:
    commit_scores(tmp_path, "ds=2026-11-18", day())
    url = commit_scores(tmp_path, "ds=2026-11-22", day())
    found = monitor_scores(url, MonitorSettings())
    assert found.findings == ["3 days have no scores, or none with a row: 2026-11-19 to 2026-11-21"]
    assert monitor_scores(url, MonitorSettings(every_days=4)).findings == []
    commit_scores(tmp_path, "run=1", day())
    assert monitor_scores(commit_scores(tmp_path, "run=9", day()), MonitorSettings()).findings == []


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ({"errors": {"query: blank": 4}}, "unusable rows: 1.00% (expected at most 0.50%)"),
        ({"errors": {"engine: died": 100}, "poisoned": 100}, "shards given up: 100 rows (expected none)"),
        ({"not_finite": 1}, "finite probabilities: 1 rows have no label because"),
    ],
)
def test_rows_without_a_label_are_told(tmp_path: Path, shard: dict, said: str) -> None:
    commit_scores(tmp_path, "ds=2026-11-21", day())
    url = commit_scores(tmp_path, "ds=2026-11-22", day(), shard=shard)
    assert monitor_scores(url, MonitorSettings()).findings[0].startswith(said)


def test_low_label_mass_is_told(tmp_path: Path) -> None:
    commit_scores(tmp_path, "ds=2026-11-21", day())
    url = commit_scores(tmp_path, "ds=2026-11-22", day(), label_mass=0.3)
    assert any("label mass below 0.5" in line for line in monitor_scores(url, MonitorSettings()).findings)


def test_the_first_day_and_a_day_that_is_not_there(tmp_path: Path) -> None:
    url = commit_scores(tmp_path, "ds=2026-11-22", day())
    found = monitor_scores(url, MonitorSettings())
    assert found.findings == ["no committed day before this one: there is nothing to compare with"]
    assert found.comparison.churn is None
    with pytest.raises(RuntimeError, match=r"no _SUCCESS there: run again when .*, or give the folder of a finished"):
        monitor_scores(str(tmp_path / "ds=2026-11-23"), MonitorSettings())


def test_conflicting_and_uncertain_pairs_are_drawn_for_people(tmp_path: Path) -> None:
    commit_scores(tmp_path, "ds=2026-11-21", day())
    url = commit_scores(tmp_path, "ds=2026-11-22", changed(day(), "q1", 0, "complement"))
    settings = MonitorSettings(compare=CompareSettings(to_annotate=20))
    main(MonitorJob(scores=url, output=str(tmp_path / "out"), monitor=settings))
    folder = tmp_path / "out" / "ds=2026-11-22"
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.json", "to_annotate.parquet"}
    pairs = pq.read_table(folder / "to_annotate.parquet")
    assert pairs.slice(0, 1).to_pylist() == [
        {"query_id": "q1", "product_id": "p1-0", "label": "complement", "why": "conflicting"}
    ]
    assert pairs.num_rows == 1 + 10
    batch = pa.table(
        {
            **pairs.to_pydict(),
            **{f"p_{name}": [0.25] * 11 for name in ("exact", "substitute", "complement", "irrelevant")},
        }
    )
    batch = batch.set_column(2, "label", pa.array([0] * 11, pa.int8()))
    edges, _ = third_edges([batch], "entropy")
    drawn, _ = draw_pairs([batch], edges, StrataSettings(), excluded=np.empty(0, np.uint64), only=key_hashes(batch)[:3])
    assert {one.pair for one in drawn} == {(row["query_id"], row["product_id"]) for row in pairs.to_pylist()[:3]}


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array([["BR"], ["TH"]]), {'["BR"]', '["TH"]'}),
        (pa.array([{"code": "BR"}, None]), {'{"code": "BR"}', "none"}),
        (pa.array([5.0, None]), {"5", "none"}),
    ],
)
def test_a_carried_column_of_any_type_splits_the_shares(tmp_path: Path, column: pa.Array, values: set[str]) -> None:
    more = {"market": column, "rank": column}
    url = commit_scores(tmp_path, "ds=2026-11-22", [("q", "p", "exact"), ("q", "p2", "exact")], more=more)
    assert set(monitor_scores(url, MonitorSettings()).comparison.shares["market"]) == values


def test_a_carried_column_without_text_is_named(tmp_path: Path) -> None:
    more = {"market": pa.array([b"0123", b"0123"], pa.binary(4))}
    url = commit_scores(tmp_path, "ds=2026-11-22", [("q", "p", "exact"), ("q", "p2", "exact")], more=more)
    with pytest.raises(ValueError, match=r"column 'market' of the scores: fixed_size_binary\[4\] has no text: name an"):
        monitor_scores(url, MonitorSettings())


def test_a_file_of_a_day_that_is_damaged_is_named(tmp_path: Path) -> None:
    commit_scores(tmp_path, "ds=2026-11-21", day())
    url = commit_scores(tmp_path, "ds=2026-11-22", day())
    for part in Path(url).glob("part-*.parquet"):
        part.write_bytes(part.read_bytes()[:200])
    for read in (columns_of, lambda url: list(read_scores(url)), lambda url: monitor_scores(url, MonitorSettings())):
        with pytest.raises(ValueError, match=r"part-.*parquet: not a readable parquet file .*: replace or remove it"):
            read(url)
