"""What a model says of pairs: asked here and now, or read from a finished day of the scoring job."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import storage
from cluster.commit import read_job_manifest
from cluster.placement import run_placed
from cluster.progress import Progress
from cluster.provenance import hide_credentials
from relevance.engines.label_model import LabelModel, fingerprint, load_label_engine
from relevance.engines.settings import EngineSettings
from relevance.scoring.shard_steps import SCORE_COLUMNS, finish_block, know_nothing, prepare_shard, score_block

_KEY = ("query_id", "product_id")
_PART_ROWS = 1_000


@dataclass(frozen=True)
class Predictions:
    """A model's answer to n pairs, in their order."""

    model_version: str
    prompt_version: str
    fingerprint: str | None
    """None where a day of scores does not say."""
    probabilities: np.ndarray
    """float (n, 4); zeros where the model gave no label."""
    labelled: np.ndarray
    """bool (n,)."""
    engine_seconds: float | None
    """Time in the engine; None where it was not asked here."""

    @property
    def labels(self) -> np.ndarray:
        """Label numbers, (n,); those of rows that are not `labelled` mean nothing."""
        return self.probabilities.argmax(axis=1)


def ask_model(rows: pa.Table, model: LabelModel, settings: EngineSettings) -> Predictions:
    """Label pairs in the way of the scoring job: its preparation, its engine, its reading of the result.

    Where the settings reserve GPUs, a Ray task does it, on a machine that has them; else this process, but for vLLM,
    which gets one of its own, since it binds a process for good and two models are often compared.

    Args:
        rows: `pairs.CLEAN_SCHEMA`.
        model: Which model, see `open_label_model`.
        settings: Engine, device, precision.

    Raises:
        ValueError: If the model or adapter is refused.
        RuntimeError: If the task died.
    """
    if settings.gpus_per_actor:
        return run_placed(_ask, rows, model, settings, gpus=settings.gpus_per_actor, cpus=settings.cpus_per_actor)
    if settings.engine == "vllm" and multiprocessing.parent_process() is None:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max_workers=1, mp_context=context) as process:
            return process.submit(_ask, rows, model, settings).result()
    return _ask(rows, model, settings)


def _ask(rows: pa.Table, model: LabelModel, settings: EngineSettings) -> Predictions:
    encoder = model.encoder()
    block = prepare_shard(rows, encoder, know_nothing)
    on_gpu = settings.device != "cpu" and _sees_gpu()
    settings = settings.pinned(on_gpu=on_gpu, max_prompt_tokens=encoder.max_prompt_tokens)
    engine = load_label_engine(settings, model, encoder.label_ids)
    started, progress = time.perf_counter(), Progress(len(block), "pairs")
    parts = []
    for part in _parts(block):
        parts.append(score_block(part, engine, encoder.guidelines_ids))
        progress.add(len(part))
    scored = pa.concat_tables(parts)
    seconds = time.perf_counter() - started
    table, _ = finish_block(scored, model_version=model.version, prompt_version=encoder.digest)
    return _align(rows, table, fingerprint=fingerprint(model, encoder, settings), engine_seconds=seconds)


def _parts(block: pa.Table) -> list[pa.Table]:
    """Cut a block where a product begins, so that there is something to say of its progress."""
    begins = np.flatnonzero(np.asarray(pc.is_valid(block["product_tokens"])))
    cuts = [0]
    for place in begins.tolist():
        if place - cuts[-1] >= _PART_ROWS:
            cuts.append(place)
    return [block.slice(start, end - start) for start, end in pairwise([*cuts, len(block)])]


def _sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def read_scores(rows: pa.Table, url: str) -> Predictions:
    """Find the pairs in a finished day of the scoring job.

    Raises:
        ValueError: If the day is not finished, or lacks some of the pairs.
    """
    manifest = read_job_manifest(url)
    if manifest is None:
        raise ValueError(f"{hide_credentials(url)}: not a finished day of scores (no _SUCCESS): run relevance_score")
    columns = [*_KEY, *SCORE_COLUMNS, "model_version", "prompt_version", "error"]
    wanted = pc.unique(rows["query_id"])
    tables = []
    for name in manifest["files"]:
        content = pa.BufferReader(storage.read_bytes(storage.join_url(url, name)))
        tables.append(pq.read_table(content, columns=columns, filters=pc.field("query_id").isin(wanted)))
    return _align(rows, pa.concat_tables(tables), fingerprint=manifest["plan"].get("fingerprint"), engine_seconds=None)


def _align(rows: pa.Table, scores: pa.Table, *, fingerprint: str | None, engine_seconds: float | None) -> Predictions:
    # A row with an error answers for its ids only where no other does: it may be a damaged copy of one with a label.
    answered = pc.is_null(scores["error"])
    scores = pa.concat_tables([scores.filter(pc.invert(answered)), scores.filter(answered)])
    keys = list(zip(*(scores[name].to_pylist() for name in _KEY), strict=True))
    place = {key: number for number, key in enumerate(keys)}
    _refuse_two_answers(keys, place, scores)
    found = [place.get(key) for key in zip(*(rows[name].to_pylist() for name in _KEY), strict=True)]
    missing = sum(number is None for number in found)
    if missing:
        raise ValueError(
            f"the scores lack {missing} of the {len(rows)} labelled pairs: score the evaluation set itself "
            "(python -m jobs.relevance_score input=…), or give a model instead of scores"
        )
    scores = scores.take(pa.array(found, pa.int64()))
    probabilities = np.stack([pc.fill_null(scores[name], 0).to_numpy() for name in SCORE_COLUMNS], axis=1)
    finite = np.isfinite(probabilities).all(axis=1)  # scores of before may hold labels that are none
    return Predictions(
        model_version=_only(scores["model_version"]),
        prompt_version=_only(scores["prompt_version"]),
        fingerprint=fingerprint,
        probabilities=np.where(finite[:, None], probabilities, 0).astype(np.float64),
        labelled=pc.is_null(scores["error"]).to_numpy() & finite,
        engine_seconds=engine_seconds,
    )


def _refuse_two_answers(
    keys: Sequence[tuple[str, str]], place: Mapping[tuple[str, str], int], scores: pa.Table
) -> None:
    """Rows that repeat a pair have its probabilities, or an error; others have but its ids."""
    labelled = pc.is_null(scores["error"]).to_pylist()
    again = [number for number, key in enumerate(keys) if place[key] != number and labelled[number]]
    last = pa.array([place[keys[number]] for number in again], pa.int64())
    answers = scores.select([*SCORE_COLUMNS])
    if not answers.take(pa.array(again, pa.int64())).equals(answers.take(last)):
        raise ValueError(
            "the scores hold pairs of the same ids with different labels: ids have to name one pair; put the market in "
            "front where each market counts its own, and score them anew"
        )


def _only(column: pa.ChunkedArray) -> str:
    return ", ".join(sorted(set(column.to_pylist())))
