"""A day of decisions, and of what shadows said beside them, as counts: they add up, and hold no text of anybody."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cancellation.events.factors import VERDICTS
from cancellation.features.profile import NUM_BINS, FeatureProfile
from cancellation.features.vector import FEATURES, feature_digest
from cancellation.monitoring.log_files import Damage
from cancellation.serving.records.decision_record import TIMINGS

SCORE_BINS = 20
_TALLIES = ("verdicts", "actions", "sources", "fallback_reasons", "states", "versions", "factors")
LATENCY_EDGES = np.geomspace(0.1, 60_000, 160)
"""Milliseconds; neighbours lie 9 % apart, and so may a quantile be wrong."""

SLIM_COLUMNS = (
    "event_id",
    "market",
    "received_at",
    "verdict",
    "score",
    "action",
    "model_version",
    "source",
    "seller_digest",
)
"""What is kept of each decision, to find the events behind a figure, what a feedback is about, and whether a seller who
was flagged stopped."""
DECISION_COLUMNS = (
    *SLIM_COLUMNS,
    "decision_factors",
    "features",
    "feature_digest",
    "state",
    "timings_ms",
    "fallback_reason",
    "unread",
)
_NAMES = [feature.name for feature in FEATURES]
_OTHER_ORDERS, _CANCELLED_SHARE = map(_NAMES.index, ("concurrent_order_count", "concurrent_cancelled_share"))


SHADOW_COLUMNS = ("event_id", "market", "received_at", "verdict", "score", "model_version", "shadow", "unread")
_MARKET_SHADOW = "of a market in state shadow"
_MAX_FLIPS = 10


@dataclass
class MarketCounts:
    """One market's decisions of one day."""

    hours: list[int] = field(default_factory=lambda: [0] * 24)
    """By hour of receipt, UTC."""
    verdicts: dict[str, int] = field(default_factory=dict)
    actions: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    """model, rules or fallback."""
    fallback_reasons: dict[str, int] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    """Of the model, over the model's answers."""
    factors: dict[str, int] = field(default_factory=dict)
    scores: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    """The model's answers by score, equal bins over [0, 1]."""
    expected: dict[str, list[float]] = field(default_factory=lambda: {"induced": [0, 0.0], "penalty": [0, 0.0]})
    """The model's induced verdicts, and its penalties: how many, and the sum of their calibrated scores."""
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_EDGES) + 1))
    other_orders: list[int] = field(default_factory=lambda: [0, 0])
    """What the sellers had in hand beside the orders of these decisions, each seen from every one of them: how many
    orders, and how many of those their buyers cancelled too."""
    features: list[list[int]] | None = None
    """By bin of the reference profile, (68, 1 + NUM_BINS); None: there is no profile."""

    @property
    def events(self) -> int:
        """Decisions."""
        return sum(self.hours)


@dataclass
class DayCounts:
    """All decisions of one day."""

    day: str
    markets: dict[str, MarketCounts] = field(default_factory=dict)
    stages: dict[str, list[int]] = field(default_factory=dict)
    """Latency of each stage, over all markets."""
    damage: Damage = field(default_factory=Damage)
    other_features: int = 0
    """Decisions whose features are not those of the reference profile: no part of the drift."""
    shadow: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By shadow: `pairs`, {"market|live verdict|shadow's": count}, `versions` and `flips`, the widest ones."""

    @property
    def events(self) -> int:
        """Decisions over all markets."""
        return sum(market.events for market in self.markets.values())

    def add(self, other: DayCounts) -> None:
        """Add another part of the day, but for its shadows."""
        for code, market in other.markets.items():
            self.markets[code] = merge([self.markets[code], market]) if code in self.markets else market
        for stage, found in other.stages.items():
            self.stages[stage] = _plus(self.stages.get(stage, [0] * len(found)), np.array(found))
        self.damage.add(other.damage)
        self.other_features += other.other_features

    def to_json(self) -> bytes:
        """Write it as `read_counts` reads it."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()


def read_counts(content: bytes) -> DayCounts:
    """Read counts back."""
    value = json.loads(content)
    markets = {code: MarketCounts(**found) for code, found in value.pop("markets").items()}
    return DayCounts(**{**value, "markets": markets, "damage": Damage(**value["damage"])})


def merge(markets: Sequence[MarketCounts]) -> MarketCounts:
    """Add counts up."""
    total = MarketCounts()
    for one in markets:
        for name in _TALLIES:
            add_up(getattr(total, name), getattr(one, name))
        for name in ("hours", "scores", "latency", "other_orders"):
            setattr(total, name, [a + b for a, b in zip(getattr(total, name), getattr(one, name), strict=True)])
        for name, (count, score) in one.expected.items():
            total.expected[name] = [total.expected[name][0] + count, total.expected[name][1] + score]
        if one.features is not None:
            found = np.array(one.features) + (0 if total.features is None else np.array(total.features))
            total.features = found.tolist()
    return total


def quantile_ms(latency: Sequence[int], place: float) -> float | None:
    """Give the latency below which a share of the answers lies, in ms, or None without answers."""
    below = np.cumsum(latency)
    if not below[-1]:
        return None
    bin_number = int(np.searchsorted(below, place * below[-1]))
    return float(LATENCY_EDGES[min(bin_number, len(LATENCY_EDGES) - 1)])


class DecisionCounter:
    """Counts decisions, table after table; holds eight bytes of each event and nothing else of it."""

    def __init__(self, day: date, profile: FeatureProfile | None, seen: np.ndarray | None = None) -> None:
        self.counts = DayCounts(str(day))
        self._day, self._profile = day, profile
        self.seen = np.empty(0, np.int64) if seen is None else seen
        """`event_hash` of what was counted, int64, sorted; given at first: of what others have counted."""

    def add(self, table: pa.Table) -> pa.Table:
        """Count a table of `DECISION_COLUMNS`; give the rows that were counted."""
        table = self._usable(table)
        for code, rows in _by_market(table):
            self._add_market(self.counts.markets.setdefault(code, MarketCounts()), rows)
        for stage in TIMINGS:
            found = self.counts.stages.setdefault(stage, [0] * (len(LATENCY_EDGES) + 1))
            self.counts.stages[stage] = _plus(found, _latencies(table, stage))
        return table

    def _usable(self, table: pa.Table) -> pa.Table:
        damage = self.counts.damage
        whole = pc.and_(pc.is_null(table["unread"]), pc.is_valid(table["verdict"]))
        whole = pc.and_(whole, pc.and_(pc.is_valid(table["event_id"]), pc.is_valid(table["received_at"])))
        damage.unread += table.num_rows - _true(whole)
        table = table.filter(whole)
        of_day = pc.equal(table["received_at"].cast(pa.date32()), pa.scalar(self._day))
        damage.misplaced += table.num_rows - _true(of_day)
        table = table.filter(of_day)
        fresh, self.seen = first_of_each(table["event_id"], self.seen)
        damage.repeated += table.num_rows - int(fresh.sum())
        return table.filter(pa.array(fresh))

    def _add_market(self, market: MarketCounts, rows: pa.Table) -> None:
        market.hours = _plus(market.hours, np.bincount(pc.hour(rows["received_at"]).to_numpy(), minlength=24))
        market.latency = _plus(market.latency, _latencies(rows, "total"))
        names = {"verdict": "verdicts", "action": "actions", "source": "sources", "state": "states"}
        for column, name in {**names, "fallback_reason": "fallback_reasons"}.items():
            add_up(getattr(market, name), tally(rows[column]))
        add_up(market.factors, tally(_factor_codes(rows["decision_factors"])))
        judged = rows.filter(pc.equal(rows["source"], "model"))
        add_up(market.versions, tally(judged["model_version"]))
        scores = pc.fill_null(judged["score"], 0.0).to_numpy()
        bins = np.minimum((scores * SCORE_BINS).astype(int), SCORE_BINS - 1)
        market.scores = _plus(market.scores, np.bincount(bins, minlength=SCORE_BINS))
        for name, column in (("induced", "verdict"), ("penalty", "action")):
            flagged = scores[pc.fill_null(pc.equal(judged[column], name), False).to_numpy(zero_copy_only=False)]
            count, total = market.expected[name]
            market.expected[name] = [count + len(flagged), total + float(flagged.sum(dtype=np.float64))]
        features = _features(rows, feature_digest())
        in_hand = np.rint(np.nan_to_num(features[:, _OTHER_ORDERS].astype(np.float64)))
        cancelled = np.rint(in_hand * np.nan_to_num(features[:, _CANCELLED_SHARE]))  # whole, so sums are exact
        market.other_orders = _plus(market.other_orders, np.array([in_hand.sum(), cancelled.sum()]).astype(np.int64))
        if self._profile is not None:
            self._add_features(market, rows, self._profile)

    def _add_features(self, market: MarketCounts, rows: pa.Table, profile: FeatureProfile) -> None:
        features = _features(rows, profile.feature_digest)
        self.counts.other_features += rows.num_rows - len(features)
        before = np.zeros((len(FEATURES), 1 + NUM_BINS), np.int64) if market.features is None else market.features
        market.features = (profile.count(features) + np.array(before)).tolist()


def _features(rows: pa.Table, digest: str) -> np.ndarray:
    """Give the features of those rows that have them as `digest` says, float32 (n, 68); NaN where missing."""
    fits = pc.and_(
        pc.equal(rows["feature_digest"], digest), pc.equal(pc.list_value_length(rows["features"]), len(FEATURES))
    )
    lists = rows["features"].filter(pc.fill_null(fits, False)).combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) and lists.num_chunks else lists
    return pc.list_flatten(lists).to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, len(FEATURES))


def first_of_each(ids: pa.ChunkedArray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell which rows are the first of their id; give also the hashes seen so far, int64, sorted."""
    hashes = np.fromiter((event_hash(value) for value in ids.to_pylist()), np.int64, len(ids))
    _, first = np.unique(hashes, return_index=True)
    fresh = np.zeros(len(hashes), bool)
    fresh[first] = True
    fresh &= ~np.isin(hashes, seen)
    return fresh, np.union1d(seen, hashes)


def event_hash(event_id: str) -> int:
    """Give 64 bits of an event's id, the same in every process: parts of a day are counted in several."""
    digest = blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _by_market(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    markets = pc.fill_null(table["market"], "unknown")
    for code in sorted(pc.unique(markets).to_pylist()):
        yield code, table.filter(pc.equal(markets, code))


def tally(column: pa.ChunkedArray | pa.Array) -> dict[str, int]:
    """Count the values of a column of texts, nulls left out."""
    return {row["values"]: row["counts"] for row in pc.value_counts(pc.drop_null(column)).to_pylist()}


def add_up(into: dict[str, int], found: Mapping[str, int]) -> None:
    """Add counts by name."""
    for name, count in found.items():
        into[name] = into.get(name, 0) + count


def _factor_codes(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    return pc.struct_field(pc.list_flatten(column), "code")


def _latencies(table: pa.Table, stage: str) -> np.ndarray:
    milliseconds = pc.drop_null(pc.struct_field(table["timings_ms"], stage)).to_numpy()
    return np.bincount(np.searchsorted(LATENCY_EDGES, milliseconds), minlength=len(LATENCY_EDGES) + 1)


def _plus(before: Sequence[int], counts: np.ndarray) -> list[int]:
    return (np.array(before) + counts).tolist()


def _true(mask: pa.ChunkedArray) -> int:
    return pc.sum(mask).as_py() or 0


class ShadowCounter:
    """Counts a day's shadow log into `DayCounts.shadow`."""

    def __init__(self, counts: DayCounts, seen: np.ndarray) -> None:
        self._counts = counts
        self.damage = Damage()
        self.seen = seen
        """`event_hash` of each shadow's name and event that was counted, int64, sorted."""

    def add(self, table: pa.Table) -> None:
        """Count a table of `SHADOW_COLUMNS`; an event that a shadow judged twice counts once."""
        verdicts = pc.struct_field(table["shadow"], "verdict")
        whole = pc.and_(pc.is_valid(verdicts), pc.and_(pc.is_valid(table["event_id"]), pc.is_valid(table["verdict"])))
        self.damage.unread += table.num_rows - (pc.sum(whole).as_py() or 0)
        table = table.filter(whole)
        names = pc.fill_null(pc.struct_field(table["shadow"], "name"), _MARKET_SHADOW)
        for name in sorted(pc.unique(names).to_pylist()):
            rows = table.filter(pc.equal(names, name))
            said = pc.binary_join_element_wise(name, rows["event_id"].cast(pa.string()), "\0")
            fresh, self.seen = first_of_each(said, self.seen)
            self.damage.repeated += rows.num_rows - int(fresh.sum())
            self._add(name, rows.filter(pa.array(fresh)))

    def _add(self, name: str, rows: pa.Table) -> None:
        found = self._counts.shadow.setdefault(name, {"pairs": {}, "versions": {}, "flips": []})
        theirs = pc.struct_field(rows["shadow"], "verdict")
        markets = pc.fill_null(rows["market"], "unknown")
        add_up(found["pairs"], tally(pc.binary_join_element_wise(markets, rows["verdict"], theirs, "|")))
        add_up(found["versions"], tally(pc.struct_field(rows["shadow"], "model_version")))
        flipped = rows.filter(pc.not_equal(rows["verdict"], theirs))
        found["flips"] = _widest([*found["flips"], *(_flip(row) for row in flipped.to_pylist())])


def add_shadows(into: DayCounts, shadow: Mapping[str, Mapping[str, Any]]) -> None:
    """Add what shadows said in another part of a day."""
    for name, part in shadow.items():
        found = into.shadow.setdefault(name, {"pairs": {}, "versions": {}, "flips": []})
        add_up(found["pairs"], part["pairs"])
        add_up(found["versions"], part["versions"])
        found["flips"] = _widest([*found["flips"], *part["flips"]])


def _widest(flips: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(flips, key=lambda flip: (-flip["apart"], flip["event_id"]))[:_MAX_FLIPS]


def _flip(row: dict[str, Any]) -> dict[str, Any]:
    score, theirs = row["score"] or 0.0, row["shadow"]["score"] or 0.0
    return {
        "event_id": row["event_id"],
        "market": row["market"],
        "live": row["verdict"],
        "shadow": row["shadow"]["verdict"],
        "live_score": score,
        "shadow_score": theirs,
        "apart": abs(score - theirs),
    }


def matrix(pairs: dict[str, int], market: str | None = None) -> np.ndarray:
    """Count live verdicts (rows) by the shadow's, int64 (3, 3), of one market or of all."""
    found = np.zeros((len(VERDICTS), len(VERDICTS)), np.int64)
    for key, count in pairs.items():
        code, live, theirs = key.rsplit("|", 2)
        if market in (None, code) and live in VERDICTS and theirs in VERDICTS:
            found[VERDICTS.index(live), VERDICTS.index(theirs)] += count
    return found
