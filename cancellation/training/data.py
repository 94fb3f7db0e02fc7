"""Encoded examples as a table, and batches of them: encoded once, read many times.

A batch is where a modality is dropped: its text, its features or a group of them, its market. Simulated
background gives more away than life does, and real events come without chat, so neither may be leaned on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
from pydantic import Field
from tokenizers import Tokenizer

from cancellation.events.examples import Example
from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.events.identity import content_number
from cancellation.features.vector import GROUPS
from cancellation.model.spec import ModelSpec
from cancellation.simulation.message_acts import act_positions
from cancellation.text.encoding import EventEncoder
from cancellation.text.timeline import timeline
from cancellation.text.tokenizer import PAD_TOKENS, UNKNOWN_TOKENS, token_of
from cluster.settings import Settings
from cluster.storage import read_bytes, write_bytes

ENCODED_SCHEMA = pa.schema(
    [
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("features", pa.list_(pa.float32())),
        pa.field("market", pa.string()),
        pa.field("label", pa.int8()),
        pa.field("factors", pa.list_(pa.int8())),
        pa.field("act_positions", pa.list_(pa.int16())),
        pa.field("acts", pa.list_(pa.int16())),
        pa.field("weight", pa.float32()),
        pa.field("event_id", pa.string()),
        pa.field("content", pa.uint64()),
    ]
)
"""`acts[i]` is an act of the message whose speaker token stands at `act_positions[i]`; `factors` is null where nobody
looked for them; `content` names what an event says (`identity.content_number`)."""


class DropSettings(Settings):
    """What a training batch leaves out, as probabilities per event."""

    text: float = Field(default=0.08, ge=0, le=1)
    features: float = Field(default=0.2, ge=0, le=1)
    """All features at once."""

    feature_group: float = Field(default=0.25, ge=0, le=1)
    """Each of the four groups for itself."""

    market: float = Field(default=0.15, ge=0, le=1)
    """The market becomes the unknown one."""

    token: float = Field(default=0.05, ge=0, lt=1)
    """Each token of an event becomes the unknown one, in `noisy` of the events."""

    noisy: float = Field(default=0.5, ge=0, le=1)


@dataclass(frozen=True)
class Batch:
    """Arrays of n events: tokens (n, t) padded, features (n, 68), market rows, targets and weights."""

    token_ids: np.ndarray
    features: np.ndarray
    markets: np.ndarray
    labels: np.ndarray
    factors: np.ndarray
    """1 or 0, (n, 18); NaN in the rows of events whose factors nobody looked for."""
    weights: np.ndarray
    acts: np.ndarray
    """Rows of (event, token, act)."""


def encode_examples(examples: Iterable[Example], encoder: EventEncoder) -> pa.Table:
    """Encode examples into a table of `ENCODED_SCHEMA`."""
    columns: dict[str, list] = {name: [] for name in ENCODED_SCHEMA.names}
    for example in examples:
        whole = timeline(example.event)
        encoded = encoder.encode_timeline(example.event, whole)
        places, acts = act_positions(encoded, whole, example.message_acts, encoder)
        row = (
            np.array(encoded.token_ids, np.int32),
            encoded.features,
            encoded.market,
            VERDICTS.index(example.label),
            None if example.factors is None else [FACTORS.index(code) for code in example.factors],
            np.array(places, np.int16),
            np.array(acts, np.int16),
            example.counts,
            example.event.event_id,
            content_number(example.event),
        )
        for values, value in zip(columns.values(), row, strict=True):
            values.append(value)
    return pa.table(columns, schema=ENCODED_SCHEMA)


class EncodedSet:
    """A table of encoded examples as flat arrays, from which batches are cut."""

    def __init__(self, table: pa.Table, markets: Sequence[str], *, pad_id: int, unknown_id: int) -> None:
        table = table.combine_chunks()
        self._tokens, self._token_starts = _flat(table["token_ids"])
        self._act_positions, self._act_starts = _flat(table["act_positions"])
        self._acts, _ = _flat(table["acts"])
        self.features = _flat(table["features"])[0].reshape(table.num_rows, -1)
        self.labels = table["label"].to_numpy().astype(np.int64)
        self.weights = table["weight"].to_numpy().astype(np.float32)
        self.factors = np.zeros((table.num_rows, len(FACTORS)), np.float32)
        codes, starts = _flat(table["factors"])
        self.factors[np.repeat(np.arange(table.num_rows), np.diff(starts)), codes] = 1.0
        self.factors[table["factors"].is_null().to_numpy()] = np.nan
        rows = {market: row + 1 for row, market in enumerate(markets)}
        self.market_names = table["market"].to_pylist()
        self.markets = np.array([rows.get(market, 0) for market in self.market_names], np.int64)
        self.lengths = np.diff(self._token_starts)
        self._pad, self._unknown = pad_id, unknown_id
        self._groups = np.cumsum([0, *(len(group) for group in GROUPS.values())])

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self,
        rows: np.ndarray,
        weights: np.ndarray | None = None,
        *,
        drop: DropSettings | None = None,
        rng: np.random.Generator | None = None,
    ) -> Batch:
        """Cut a batch; with `drop`, leave out what it says."""
        n = len(rows)
        lengths = self.lengths[rows].copy()
        features, markets = self.features[rows].copy(), self.markets[rows].copy()
        if drop is not None and rng is not None:
            lengths[rng.random(n) < drop.text] = 1  # the start token stays
            features[rng.random(n) < drop.features] = np.nan
            for start, end in zip(self._groups[:-1], self._groups[1:], strict=True):
                features[rng.random(n) < drop.feature_group, start:end] = np.nan
            markets[rng.random(n) < drop.market] = 0
        width = int(lengths.max())
        token_ids = np.full((n, width), self._pad, np.int64)
        for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            start = self._token_starts[row]
            token_ids[place, :length] = self._tokens[start : start + length]
        if drop is not None and rng is not None and drop.token:
            hit = (rng.random((n, width)) < drop.token) & (rng.random((n, 1)) < drop.noisy)
            hit &= (token_ids != self._pad) & (np.arange(width) > 0)
            token_ids[hit] = self._unknown
        return Batch(
            token_ids,
            features,
            markets,
            self.labels[rows],
            self.factors[rows],
            self.weights[rows] if weights is None else self.weights[rows] * weights.astype(np.float32),
            self._acts_of(rows, lengths),
        )

    def _acts_of(self, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        starts, ends = self._act_starts[rows], self._act_starts[rows + 1]
        counts = ends - starts
        flat = np.concatenate([np.arange(s, e) for s, e in zip(starts, ends, strict=True)] or [np.zeros(0, int)])
        events = np.repeat(np.arange(len(rows)), counts)
        triples = np.stack([events, self._act_positions[flat], self._acts[flat]], axis=1).astype(np.int64)
        return triples[triples[:, 1] < lengths[events]]


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Values and starts of a list column, whose length is one more than the rows'."""
    lists = column.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    starts = lists.offsets.to_numpy()
    return lists.values.to_numpy(zero_copy_only=False)[starts[0] : starts[-1]], starts - starts[0]


def read_encoded(urls: Sequence[str], spec: ModelSpec, tokenizer: Tokenizer) -> EncodedSet:
    """Read files of encoded events for a model."""
    tables = [ipc.open_file(pa.BufferReader(read_bytes(url))).read_all() for url in urls]
    pad, unknown = (token_of(tokenizer, names) for names in (PAD_TOKENS, UNKNOWN_TOKENS))
    return EncodedSet(pa.concat_tables(tables), spec.markets, pad_id=pad, unknown_id=unknown)


def read_features(urls: Sequence[str], *, at_most: int) -> np.ndarray:
    """Read the features alone, (n, 68), of about the first `at_most` events: what a profile is made of."""
    found: list[np.ndarray] = []
    for url in urls:
        if sum(map(len, found)) >= at_most:
            break
        table = read_columns([url], ["features"])
        found.append(_flat(table["features"])[0].reshape(table.num_rows, -1))
    return np.concatenate(found)


def read_columns(urls: Sequence[str], names: Sequence[str]) -> pa.Table:
    """Read some columns of files of encoded events."""
    options = ipc.IpcReadOptions(included_fields=[ENCODED_SCHEMA.get_field_index(name) for name in names])
    return pa.concat_tables(ipc.open_file(pa.BufferReader(read_bytes(url)), options=options).read_all() for url in urls)


def write_encoded(url: str, table: pa.Table) -> None:
    """Write encoded events as an Arrow file."""
    sink = pa.BufferOutputStream()
    with ipc.new_file(sink, table.schema, options=ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    write_bytes(url, sink.getvalue())


def batches_by_length(
    rows: np.ndarray, lengths: np.ndarray, batch_size: int, rng: np.random.Generator, *, batches_per_pool: int = 32
) -> Iterator[np.ndarray]:
    """Cut an order of rows into batches of about the same length, so that little is padding.

    Sorting happens inside pools, so that an epoch's order stays random at large. Places in `rows` are given.
    """
    for start in range(0, len(rows), batch_size * batches_per_pool):
        pool = np.arange(start, min(start + batch_size * batches_per_pool, len(rows)))
        pool = pool[np.argsort(lengths[rows[pool]], kind="stable")]
        cuts = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        for place in rng.permutation(len(cuts)):
            yield cuts[place]
