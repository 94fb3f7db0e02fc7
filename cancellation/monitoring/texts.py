"""A day's texts against those of training, read by the model itself from a sample of the log.

    days/2026-11-22/texts.parquet    of each sampled event: id, market, where its text lies along each direction

Where a text lies are nine numbers, which nobody reads a text out of. The sample is drawn by a digest of the event's id:
the same events whatever files they came in.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cancellation.contact_data.logged_event import is_by_reference
from cancellation.model.verdict_model import VerdictModel, load_verdict_model, read_identity
from cancellation.monitoring.counts import event_hash
from cancellation.monitoring.drift import TEXT, Comparison, DriftSettings, FeatureDrift
from cancellation.monitoring.findings import Finding
from cancellation.monitoring.log_files import day_files
from cancellation.monitoring.parts import Through, find_in_unit, one_by_one, units_of
from cancellation.serving.records.shipped_log import with_fresh_listing
from cancellation.text.profile import TextProfile, comparable_text
from cluster import storage
from cluster.storage import StoredFile, listing_digest

_FORM = 1
"""Raise it when texts are read otherwise: kept days are then read again."""

_FURTHEST = 5
"""Events that are named behind a move."""


class TextModel:
    """A model that reads texts, loaded when it is first asked, and what texts looked like in its training."""

    def __init__(self, folder: Path, profile: TextProfile) -> None:
        self.folder, self.profile = folder, profile

    @cached_property
    def digest(self) -> str:
        """Of what decides where a text lies."""
        return sha256(read_identity(self.folder).version.encode() + self.profile.to_json()).hexdigest()[:16]

    @cached_property
    def model(self) -> VerdictModel:
        """The model."""
        return load_verdict_model(self.folder)


@dataclass(frozen=True)
class TextSample:
    """Where some of a day's texts lie."""

    event_ids: Sequence[str]
    markets: Sequence[str]
    """Of each."""
    places: np.ndarray
    """float32 (n, directions + 1), as `TextProfile.places` gives them."""
    sampled: int
    """Decisions that were looked at, with a text or without."""
    by_reference: int
    """Of these, with texts that the log holds by digest and length only."""
    unknown_markets: Sequence[str]
    """Whose texts training did not have, or too few of them: not compared."""

    @property
    def said(self) -> str:
        """What was compared, in a line."""
        if not self.event_ids and self.by_reference:
            return "not compared: the log holds texts by reference only"
        others = f"; without {', '.join(self.unknown_markets)}, unknown to training" if self.unknown_markets else ""
        return f"{len(self.event_ids):,} texts in {self.sampled:,} decisions of the day, chosen by chance{others}"


@dataclass(frozen=True)
class TextMove:
    """How far the day's texts moved along one direction, and who is behind it."""

    drift: FeatureDrift
    market: str | None
    """That moved furthest; None: no market has enough texts to say."""
    market_psi: float | None
    event_ids: Sequence[str]
    """Some of those that lie where more texts are than in training."""


class TextDays:
    """The kept samples of one archive's texts, beside its days' counts."""

    def __init__(
        self, archive_url: str, output_url: str, reader: TextModel, size: int, *, through: Through = one_by_one
    ) -> None:
        self._through = through
        self._log, self._output = storage.join_url(archive_url, "decisions"), output_url
        self._reader, self._size = reader, size
        self.profile = reader.profile
        """What the texts are compared with."""
        self._known: dict[date, TextSample | None] = {}

    def sample(self, day: date, *, read: bool) -> TextSample | None:
        """Give a day's sample; without `read` only one that is kept. None: there is none.

        The day's decisions have to be counted already (`Days.complete`).
        """
        if self._known.get(day) is None:
            self._known[day] = with_fresh_listing(partial(self._find, day)) if read else self._kept(day, None)
        return self._known[day]

    def _find(self, day: date) -> TextSample:
        files = day_files(self._log, day)
        return self._kept(day, files) or self._made(day, files)

    def _url(self, day: date) -> str:
        return storage.join_url(self._output, "days", str(day), "texts.parquet")

    def _made_by(self) -> list[Any]:
        return [_FORM, self._reader.digest, self._size]

    def _read(self, day: date) -> tuple[pa.Table, dict[str, Any]] | None:
        try:
            table = pq.read_table(pa.BufferReader(storage.read_bytes(self._url(day))))
            return table, json.loads(table.schema.metadata[b"texts"])
        except (FileNotFoundError, pa.ArrowException, LookupError, TypeError, ValueError):  # none, or cut off
            return None

    def _kept(self, day: date, files: Sequence[StoredFile] | None) -> TextSample | None:
        kept = self._read(day)
        if kept is None or kept[1].get("made_by") != self._made_by():
            return None
        if files is not None and kept[1].get("files") != listing_digest(files):  # an hour came late
            return None
        table, made = kept
        names = self._reader.profile.names
        places = np.stack([table[name].to_numpy() for name in names], axis=1)
        ids, markets = table["event_id"].to_pylist(), table["market"].to_pylist()
        return TextSample(ids, markets, places, made["sampled"], made["by_reference"], made["unknown_markets"])

    def _made(self, day: date, files: Sequence[StoredFile]) -> TextSample:
        chosen = self._chosen(day)
        rows: dict[str, Mapping[str, Any]] = {}
        for found_there in self._through(units_of("decisions", day, files), find_in_unit, frozenset(chosen)):
            rows = {**found_there, **rows}
        found = self._embedded([rows[event_id] for event_id in chosen if event_id in rows], len(chosen))
        columns = dict(zip(self._reader.profile.names, found.places.T, strict=True))
        made = {
            "made_by": self._made_by(),
            "files": listing_digest(files),
            "sampled": found.sampled,
            "by_reference": found.by_reference,
            "unknown_markets": found.unknown_markets,
        }
        table = pa.table({"event_id": pa.array(found.event_ids, pa.string()), "market": found.markets, **columns})
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({b"texts": json.dumps(made).encode()}), sink, compression="zstd")
        storage.write_bytes(self._url(day), sink.getvalue().to_pybytes())
        return found

    def _chosen(self, day: date) -> list[str]:
        kept = storage.read_bytes(storage.join_url(self._output, "days", str(day), "decisions.parquet"))
        ids = pq.read_table(pa.BufferReader(kept), columns=["event_id"])["event_id"].to_pylist()
        return heapq.nsmallest(self._size, ids, key=event_hash)

    def _embedded(self, rows: Iterable[dict[str, Any]], sampled: int) -> TextSample:
        model, profile = self._reader.model, self._reader.profile
        ids, markets, texts, unknown, by_reference = [], [], [], set(), 0
        for row in rows:
            event = json.loads(row["event"]) if row["event"] else {}
            text = comparable_text(event, model.encoder)
            by_reference += is_by_reference(event)
            if text is not None and event["market"] in profile.markets:
                ids.append(row["event_id"])
                markets.append(event["market"])
                texts.append(text)
            elif text is not None:
                unknown.add(event["market"])
        width = profile.means.shape[1]
        places = profile.places(model.embed(texts).reshape(len(texts), width), markets)
        return TextSample(ids, markets, places, sampled, by_reference, sorted(unknown))


def compare_texts(
    today: TextSample | None, before: Sequence[TextSample], profile: TextProfile, settings: DriftSettings
) -> list[Comparison]:
    """Put a day's texts beside training's, of all markets and of each with enough of them; empty with too few.

    All markets' are compared with a training that has them in the day's shares: which market is busy is no drift of
    the texts.
    """
    if today is None or len(today.event_ids) < settings.min_events:
        return []
    now = profile.count(today.places, today.markets)
    past = sum((profile.count(one.places, one.markets) for one in before), np.zeros_like(now))
    texts = now[:, 0].sum(1)
    groups = [("", texts > 0)]
    if (texts > 0).sum() > 1:
        groups += [
            (code, profile.markets == np.array(code)) for code, n in zip(profile.markets, texts, strict=True)
            if n >= settings.min_texts
        ]  # fmt: skip
    found = []
    for market, rows in groups:
        shares = texts[rows] / texts[rows].sum()
        reference, recent = _mixture(profile.counts[rows], shares), _mixture(past[rows], shares)
        for number, name in enumerate(profile.names):
            counts = [None if one is None else np.concatenate([[0], one[number]]) for one in (reference, recent)]
            own = np.concatenate([[0], now[rows, number].sum(0)])
            found.append(Comparison(f"{name} in {market}" if market else name, TEXT, own, *counts, market))
    return found


def _mixture(counts: np.ndarray, shares: np.ndarray) -> np.ndarray | None:
    """Give the counts of a population that has markets in some shares; None where one of them has no texts.

    Of as many texts as its scarcest market allows: their spread is then never larger than that of so many drawn
    from the mixture, and a test of the two errs on the side of "nothing happened".

    Args:
        counts: (markets, directions + 1, bins).
        shares: Of the markets, (markets,), above 0 and 1 in sum.
    """
    totals = counts[:, 0].sum(1)
    if not totals.all():
        return None
    return (totals / shares).min() * np.einsum("m,mdb->db", shares / totals, counts)


def text_moves(drift: Sequence[FeatureDrift], today: TextSample | None, profile: TextProfile | None) -> list[TextMove]:
    """Say of each direction, the furthest moved first, which market moved furthest and which events are behind it."""
    rows = [one for one in drift if one.group == TEXT]
    if today is None or profile is None or not rows:
        return []
    bins, now = profile.bins(today.places), profile.count(today.places, today.markets)
    shares = now[:, 0].sum(1) / len(today.event_ids)
    known = _mixture(profile.counts[shares > 0], shares[shares > 0])
    assert known is not None
    more = now.sum(0) / len(today.event_ids) - known / known.sum(1, keepdims=True)
    found = []
    for one in (row for row in rows if not row.market):
        number = profile.names.index(one.name)
        markets = [row for row in rows if row.name == f"{one.name} in {row.market}"]
        furthest = max(markets, key=lambda row: row.psi, default=None)
        there = np.flatnonzero(bins[:, number] == more[number].argmax())
        if furthest is not None and (own := [row for row in there if today.markets[row] == furthest.market]):
            there = np.array(own)
        ids = [today.event_ids[row] for row in there[:_FURTHEST]]
        found.append(TextMove(one, furthest and furthest.market, furthest and furthest.psi, ids))
    return found


def text_findings(drift: Sequence[FeatureDrift], moves: Sequence[TextMove]) -> list[Finding]:
    """Tell that the texts differ from training: all markets' in one line, else one for each market that does alone."""
    drifted = [move for move in moves if move.drift.drifted]
    if drifted:
        first = drifted[0]
        where = f", furthest in {first.market} (PSI {first.market_psi:.2f})" if first.market else ""
        text = _told("", [move.drift for move in drifted], len(moves))
        return [Finding("alarm", "drift", f"{text}{where}")]
    alone = [one for one in drift if one.group == TEXT and one.drifted]
    return [
        Finding("alarm", "drift", _told(code, [one for one in alone if one.market == code], len(moves)))
        for code in sorted({one.market for one in alone})
    ]


def _told(market: str, drifted: Sequence[FeatureDrift], number: int) -> str:
    first = drifted[0].name.removesuffix(f" in {market}").removeprefix("text ")
    whose = f"texts of {market} differ" if market else "texts differ"
    return f"{whose} from training in {len(drifted)} of {number} directions, most in {first} (PSI {drifted[0].psi:.2f})"
