"""Scored days and annotators for tests: what jobs.relevance_score leaves, and people of a given skill."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from relevance.labels import LABELS
from relevance.scoring.shard_steps import SCORE_COLUMNS
from tests.builders.pairs_data import make_pairs

Truth = dict[tuple[str, str], str]


def write_scored_day(folder: Path, num_pairs: int = 400, *, seed: int = 0) -> Truth:
    """Write `folder`/pairs and `folder`/scores as a finished run leaves them; return the most probable labels."""
    (folder / "pairs").mkdir(parents=True)
    (folder / "scores").mkdir()
    pairs = make_pairs(num_pairs, seed=seed)
    brand = pa.array([f"brand {row % 7}" for row in range(num_pairs)])
    attributes = [[("colour", "red"), ("size", str(row))] for row in range(num_pairs)]
    pairs = pairs.append_column("brand", brand)
    pairs = pairs.append_column("attributes", pa.array(attributes, pa.map_(pa.string(), pa.string())))
    pq.write_table(pairs, folder / "pairs/pairs-0.parquet")
    scores = scores_table(pairs["query_id"].to_pylist(), pairs["product_id"].to_pylist(), seed=seed)
    half = num_pairs // 2
    for number, part in enumerate((scores.slice(0, half), scores.slice(half))):
        pq.write_table(part, folder / f"scores/part-{number:05d}.parquet")
    write_manifest(folder)
    rows = scores.to_pylist()
    return {(row["query_id"], row["product_id"]): row["label"] for row in rows if row["label"]}


def scores_table(query_ids: list[str], product_ids: list[str], *, seed: int = 0) -> pa.Table:
    """Random scores; every fiftieth row has an error instead."""
    probabilities = np.random.default_rng(seed).dirichlet((0.6, 0.6, 0.6, 0.6), len(query_ids)).astype(np.float32)
    failed = np.arange(len(query_ids)) % 50 == 49
    labels = [None if bad else LABELS[best] for bad, best in zip(failed, probabilities.argmax(axis=1), strict=True)]
    return pa.table(
        {
            "query_id": query_ids,
            "product_id": product_ids,
            "label": pa.array(labels).dictionary_encode(),
            **{name: pa.array(probabilities[:, i], mask=failed) for i, name in enumerate(SCORE_COLUMNS)},
            "error": pa.array(["title: blank" if bad else None for bad in failed], pa.string()),
        }
    )


def write_manifest(folder: Path) -> None:
    names = sorted(path.name for path in (folder / "scores").glob("part-*.parquet"))
    manifest = {"attempt": "a1", "plan": {"input": str(folder / "pairs")}, "files": names}
    (folder / "scores/_SUCCESS").write_text(json.dumps(manifest))


def read_sheet(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def fill_sheets(round_folder: Path, back: Path, truth: Truth, skills: Mapping[str, float]) -> None:
    """Let each person fill in their sheet: right with a probability, else any label; in full or as a letter."""
    for name, skill in skills.items():
        chooser = random.Random(f"{round_folder.name} {name}")
        rows = read_sheet(round_folder / f"csv/{name}.csv")
        for row in rows:
            right = truth[row["query_id"], row["product_id"]]
            label = right if chooser.random() < skill else chooser.choice(LABELS)
            row["label"] = chooser.choice([label, label[0].upper()])
            row["annotated_at"] = f"2026-11-24T{chooser.randrange(9, 18):02d}:00:00Z"
        write_csv(back / f"{round_folder.name}-{name}.csv", rows)
