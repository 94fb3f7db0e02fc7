"""Small real classes that stand where a GPU would: their answers follow from their input alone."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relevance.engines.interface import LabelScores, TokenBatch
from relevance.engines.label_model import LabelModel
from relevance.engines.settings import EngineSettings


class FakeEngine:
    """Scores that are a hash of product and query tokens: equal pairs get equal scores, whatever the batch."""

    def label_logprobs(self, batch: TokenBatch) -> LabelScores:
        products = np.array([_hash(tokens) for tokens in batch.products], np.uint64)
        queries = np.array([_hash(tokens) for tokens in batch.queries], np.uint64)
        mixed = products[batch.product_of_pair] * np.uint64(0x9E3779B97F4A7C15) ^ queries[batch.query_of_pair]
        logits = np.stack([(mixed >> np.uint64(shift)) % np.uint64(1000) for shift in (3, 17, 31, 45)], axis=1) / 250.0
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        lengths = np.array([len(tokens) for tokens in batch.queries])[batch.query_of_pair]
        product_lengths = np.array([len(tokens) for tokens in batch.products])
        prompt = int(lengths.sum() + product_lengths[batch.product_of_pair].sum() + len(batch) * len(batch.guidelines))
        computed = int(lengths.sum() + product_lengths.sum())
        return LabelScores(logprobs.astype(np.float32), np.full(len(batch), 0.98, np.float32), prompt, computed)


def _hash(tokens: object) -> int:
    data = np.asarray(tokens, np.int32).tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def load_fake_engine(settings: EngineSettings, model: LabelModel, label_ids: tuple[int, ...]) -> FakeEngine:
    return FakeEngine()


class DyingEngine(FakeEngine):
    """Dies on batches that contain a chosen query, by exception or by signal, a set number of times or always."""

    def __init__(self, fatal_query: tuple[int, ...], marks: Path, deaths: int, kill: bool) -> None:
        self._fatal_query, self._marks, self._deaths, self._kill = list(fatal_query), marks, deaths, kill

    def label_logprobs(self, batch: TokenBatch) -> LabelScores:
        hit = any(list(tokens[: len(self._fatal_query)]) == self._fatal_query for tokens in batch.queries)
        if hit and len(list(self._marks.iterdir())) < self._deaths:
            (self._marks / str(os.getpid())).touch()
            if self._kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise MemoryError("CUDA out of memory")
        return super().label_logprobs(batch)


class OverflowingEngine(FakeEngine):
    """Gives numbers that are none to the first pair of each batch, as 16 bits that overflow do."""

    def label_logprobs(self, batch: TokenBatch) -> LabelScores:
        scores = super().label_logprobs(batch)
        scores.logprobs[:1] = np.nan
        return scores


def load_overflowing_engine(
    settings: EngineSettings, model: LabelModel, label_ids: tuple[int, ...]
) -> OverflowingEngine:
    return OverflowingEngine()


class SleepingEngine(FakeEngine):
    """Takes as long as a real one: it sleeps for what is left of a batch's time once the hashes are made."""

    def __init__(self, pairs_per_second: float) -> None:
        self._pairs_per_second = pairs_per_second

    def label_logprobs(self, batch: TokenBatch) -> LabelScores:
        ends = time.monotonic() + len(batch) / self._pairs_per_second
        scores = super().label_logprobs(batch)
        time.sleep(max(0.0, ends - time.monotonic()))
        return scores


@dataclass(frozen=True)
class SleepingLoader:
    """Loads engines of a speed."""

    pairs_per_second: float

    def __call__(self, settings: EngineSettings, model: LabelModel, label_ids: tuple[int, ...]) -> SleepingEngine:
        return SleepingEngine(self.pairs_per_second)
