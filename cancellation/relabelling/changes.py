"""What people changed: counted by why a case was asked, from label to label, by market, and beside what models said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cancellation.events.factors import VERDICTS
from cancellation.relabelling.answers import Settled
from cancellation.relabelling.cases import Case
from cluster.statistics.shares import clustered_interval

_WHYS = ("contradicted", "test", "rejected")
_QUARTERS = 4
_SHOWN = 4
"""Cases of each kind that are named."""


def changes(cases: Mapping[str, Case], settled: Mapping[str, Settled]) -> dict[str, Any]:
    """Count what was asked, answered and changed.

    Args:
        cases: Of the round, by event.
        settled: What people say of those that somebody answered, by event.
    """
    found: dict[str, Any] = {"asked": len(cases), "open": sum(one.label is None for one in settled.values())}
    done = {name: one for name, one in settled.items() if one.label is not None}
    found["answered"] = len(done)
    of_kind = {why: [case for name, case in cases.items() if case.why == why and name in done] for why in _WHYS}
    found |= {why: _changed(of_kind[why], done) for why in _WHYS}
    doubted = sorted(of_kind["contradicted"], key=lambda case: case.rank)
    quarters = np.array_split(np.arange(len(doubted)), _QUARTERS)
    found["contradicted_by_quarter"] = [_changed([doubted[place] for place in part], done) for part in quarters]
    found["moves"] = {why: _moves(of_kind[why], done) for why in _WHYS}
    found["by_market"] = [
        {
            "market": market,
            **{why: _changed([c for c in of_kind[why] if c.event.market == market], done) for why in _WHYS},
        }
        for market in sorted({case.event.market for why in _WHYS for case in of_kind[why]})
    ]
    return {**found, **_beside_models(cases, settled)}


def _changed(cases: Sequence[Case], settled: Mapping[str, Settled]) -> Mapping[str, float | int | None]:
    """Give the share of changed labels with its 95 % interval, for which a seller's cases may be alike."""
    if not cases:
        return {"part": 0, "of": 0, "share": None, "low": None, "high": None}
    changed = np.array([settled[case.event.event_id].label != case.label for case in cases])
    _, sellers = np.unique([case.event.seller_id for case in cases], return_inverse=True)
    low, high = clustered_interval(changed, sellers)
    part = int(changed.sum())
    return {"part": part, "of": len(cases), "share": part / len(cases), "low": low, "high": high}


def _moves(cases: Sequence[Case], settled: Mapping[str, Settled]) -> list[list[int]]:
    """Count cases by the label that they had (rows) and the one that people settled, in the order of `VERDICTS`."""
    counts = Counter((case.label, settled[case.event.event_id].label) for case in cases)
    return [[counts[before, after] for after in VERDICTS] for before in VERDICTS]


def _beside_models(cases: Mapping[str, Case], settled: Mapping[str, Settled]) -> dict[str, Any]:
    """Hold what people say of doubted labels against the judges, and name a few cases of each kind."""
    kinds = ("changed", "kept", "divided")
    counts = {kind: Counter({"cases": 0, "with": 0, "models_divided": 0, "against": 0}) for kind in kinds}
    named: dict[str, list[dict[str, Any]]] = {"changed": [], "against": [], "divided": []}
    doubted = (case for case in cases.values() if case.why == "contradicted" and case.event.event_id in settled)
    for case in sorted(doubted, key=lambda case: case.rank):
        one = settled[case.event.event_id]
        kind = _kind(case, one)
        if kind is None:
            continue
        said = {VERDICTS[int(np.argmax(opinion))] for opinion in case.opinions.values()}
        models = "models_divided" if len(said) > 1 else "with" if one.label in said else "against"
        counts[kind].update(("cases", models))
        example = "against" if kind != "divided" and models == "against" else kind
        if example in named and len(named[example]) < _SHOWN:
            named[example].append(_named(case, one))
    return {"beside_models": {kind: dict(count) for kind, count in counts.items()}, "cases": named}


def _kind(case: Case, settled: Settled) -> str | None:
    """Tell what people made of a case; None where too few have answered."""
    if settled.label is None:
        return "divided" if len({answer.label for answer in settled.answers}) > 1 else None
    return "kept" if settled.label == case.label else "changed"


def _named(case: Case, settled: Settled) -> dict[str, Any]:
    best = {judge: int(np.argmax(opinion)) for judge, opinion in case.opinions.items()}
    return {
        "event_id": case.event.event_id,
        "market": case.event.market,
        "before": case.label,
        "after": settled.label,
        "said": [answer.label for answer in settled.answers],
        "models": {
            judge: {"verdict": VERDICTS[place], "chance": float(case.opinions[judge][place])}
            for judge, place in best.items()
        },
    }
