"""Answers found in a finished day of scores: by ids, of the rows that have a label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from relevance.evaluation.pairs import read_evaluation_pairs
from relevance.evaluation.predictions import read_scores
from relevance.labels import LABELS
from relevance.scoring.shard_steps import SCORE_COLUMNS
from tests.builders.annotation_data import write_csv
from tests.builders.committed_scores import commit_scores


def _day(tmp_path: Path, labels: list[str | None]) -> str:
    """Rows of one pair's ids; those without a label have an error."""
    columns: dict[str, Any] = {
        name: pa.array([None if own is None else float(own == label) for own in labels], pa.float32())
        for name, label in zip(SCORE_COLUMNS, LABELS, strict=True)
    }
    columns |= {"model_version": ["m"] * len(labels), "prompt_version": ["p"] * len(labels)}
    columns["error"] = pa.array([None if own else "title: blank" for own in labels], pa.string())
    return commit_scores(tmp_path, "ds=2026-11-22", [("q", "p", own) for own in labels], more=columns)  # type: ignore[misc]


@pytest.mark.parametrize("labels", [["exact", None], [None, "exact"], [None, "exact", None, "exact"]])
def test_a_row_that_could_not_be_read_is_no_other_answer(tmp_path: Path, labels: list[str | None]) -> None:
    titles = ["shoe" if label else "" for label in labels]
    rows = [{"query_id": "q", "query": "red", "product_id": "p", "title": title, "label": "E"} for title in titles]
    pairs = read_evaluation_pairs(str(write_csv(tmp_path / "labelled.csv", rows)))
    found = read_scores(pairs.rows, _day(tmp_path, labels))
    assert found.labelled.tolist() == [True]
    assert found.labels.tolist() == [LABELS.index("exact")]


def test_two_labels_of_one_pairs_ids_are_refused(tmp_path: Path) -> None:
    rows = [{"query_id": "q", "query": "red", "product_id": "p", "title": "shoe", "label": "E"}]
    pairs = read_evaluation_pairs(str(write_csv(tmp_path / "labelled.csv", rows)))
    with pytest.raises(ValueError, match="same ids with different labels"):
        read_scores(pairs.rows, _day(tmp_path, ["exact", None, "substitute"]))
