"""What shadows said beside the live answers: pairs of verdicts by market, and the widest disagreements."""

from __future__ import annotations

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

    def __init__(self, counts: DayCounts) -> None:
        self._counts = counts
        self.damage = Damage()
        self._seen: dict[str, np.ndarray] = {}

    def add(self, table: pa.Table) -> None:
        """Count a table of `SHADOW_COLUMNS`; an event that a shadow judged twice counts once."""
        verdicts = pc.struct_field(table["shadow"], "verdict")
        whole = pc.and_(pc.is_valid(verdicts), pc.and_(pc.is_valid(table["event_id"]), pc.is_valid(table["verdict"])))
        self.damage.unread += table.num_rows - (pc.sum(whole).as_py() or 0)
        table = table.filter(whole)
        names = pc.fill_null(pc.struct_field(table["shadow"], "name"), _MARKET_SHADOW)
        for name in sorted(pc.unique(names).to_pylist()):
            rows = table.filter(pc.equal(names, name))
            fresh, self._seen[name] = first_of_each(rows["event_id"], self._seen.get(name, np.empty(0, np.int64)))
            self.damage.repeated += rows.num_rows - int(fresh.sum())
            self._add(name, rows.filter(pa.array(fresh)))

    def _add(self, name: str, rows: pa.Table) -> None:
        found = self._counts.shadow.setdefault(name, {"pairs": {}, "versions": {}, "flips": []})
        theirs = pc.struct_field(rows["shadow"], "verdict")
        markets = pc.fill_null(rows["market"], "unknown")
        add_up(found["pairs"], tally(pc.binary_join_element_wise(markets, rows["verdict"], theirs, "|")))
        add_up(found["versions"], tally(pc.struct_field(rows["shadow"], "model_version")))
        flipped = rows.filter(pc.not_equal(rows["verdict"], theirs))
        found["flips"] = sorted(
            [*found["flips"], *(_flip(row) for row in flipped.to_pylist())],
            key=lambda flip: (-flip["apart"], flip["event_id"]),
        )[:_MAX_FLIPS]


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
