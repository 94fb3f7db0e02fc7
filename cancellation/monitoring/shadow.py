"""What shadows said beside the live answers: pairs of verdicts by market, and the widest disagreements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cancellation.events.factors import VERDICTS
from cancellation.monitoring.counts import DayCounts, add_up, first_of_each, tally
from cancellation.monitoring.log_files import Damage

SHADOW_COLUMNS = ("event_id", "market", "received_at", "verdict", "score", "model_version", "shadow", "unread")
_MARKET_SHADOW = "of a market in state shadow"
_MAX_FLIPS = 10


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
