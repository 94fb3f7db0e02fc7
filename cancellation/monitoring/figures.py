"""A day's numbers by name, as MLflow and the page's first table have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from cancellation.events.factors import VERDICTS
from cancellation.monitoring.counts import DayCounts, MarketCounts, merge, quantile_ms


@dataclass(frozen=True)
class KeyFigure:
    """One number of a day, of the day before, and of those before."""

    name: str
    kind: str
    """count, share or milliseconds."""
    today: float | None
    yesterday: float | None
    usual: float | None
    """Mean over the days before; None without any."""
    series: Sequence[float | None]
    """Of each day, the day itself last."""


@dataclass(frozen=True)
class Compliance:
    """Whether sellers of whom an action was asked gave no reason for one again."""

    flagged_on: date
    flagged: int
    """Sellers with a decision to investigate or to penalise on that day."""
    stopped: int
    """Those without another one on any of the days after it, up to the monitored day."""
    missing: str | None = None
    """Why it is not known."""

    @property
    def share(self) -> float | None:
        """Of the flagged sellers, those who stopped."""
        return self.stopped / self.flagged if self.flagged and self.missing is None else None

    def __str__(self) -> str:
        if self.missing:
            return f"not known: {self.missing}"
        return f"of {self.flagged:,} sellers flagged on {self.flagged_on}, {self.stopped:,} were not flagged again"


def seller_compliance(flagged_sellers: Callable[[date], set[str] | None], day: date, *, within: int) -> Compliance:
    """Follow the sellers that were flagged `within` days before a day, day by day up to it.

    Args:
        flagged_sellers: Gives those of a day, or None where that is not known: what is missing is no good conduct.
        day: The last one to look at.
        within: Days.
    """
    first = day - timedelta(days=within)
    begun = flagged_sellers(first)
    left = set(begun or ())
    for number in range(1, within + 1):
        again = flagged_sellers(first + timedelta(days=number))
        if begun is None or again is None:
            unknown = first if begun is None else first + timedelta(days=number)
            return Compliance(first, 0, 0, f"nothing is kept of {unknown}")
        left -= again
    missing = None if begun else f"no flagged decision of {first} names a seller"
    return Compliance(first, len(begun or ()), len(left), missing)


def day_figures(day: DayCounts) -> dict[str, float | None]:
    """Give a day's numbers under the names that they have in MLflow; None: not known of that day."""
    whole = merge(list(day.markets.values()))
    found: dict[str, float | None] = {"decisions": float(whole.events)}
    found |= {f"share.{verdict}": _share(whole.verdicts, verdict, whole) for verdict in VERDICTS}
    found |= {f"share.{action}": _share(whole.actions, action, whole) for action in ("penalty", "investigate")}
    found["share.fallback"] = _share(whole.sources, "fallback", whole)
    total = day.stages.get("total", [0])
    for name, place in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        found[f"latency_ms.{name}"] = quantile_ms(total, place)
    orders, cancelled = whole.other_orders
    found["share.buyers_cancel"] = cancelled / orders if orders else None
    flagged, score = whole.expected["induced"]
    found["precision.expected"] = score / flagged if flagged else None
    return found


def market_figures(day: DayCounts) -> dict[str, float | None]:
    """Give the shares of each market, for MLflow."""
    found: dict[str, float | None] = {}
    for code, market in sorted(day.markets.items()):
        found[f"decisions.{code}"] = float(market.events)
        found[f"share.induced.{code}"] = _share(market.verdicts, "induced", market)
        found[f"share.fallback.{code}"] = _share(market.sources, "fallback", market)
    return found


_SHOWN = (
    ("decisions", "decisions", "count"),
    ("share.induced", "induced", "share"),
    ("share.inconclusive", "inconclusive", "share"),
    ("share.penalty", "penalties", "share"),
    ("share.investigate", "to be investigated", "share"),
    ("share.fallback", "answered by the rules, as the model did not", "share"),
    ("share.buyers_cancel", "cancelled by buyers, of these sellers' other orders", "share"),
    ("latency_ms.p50", "half of the answers within", "milliseconds"),
    ("latency_ms.p99", "99 of 100 answers within", "milliseconds"),
    ("precision.expected", "precision of induced verdicts, estimated", "share"),
)


def key_figures(today: DayCounts, before: Sequence[DayCounts], yesterday: str) -> list[KeyFigure]:
    """Put the most asked-for numbers beside those of the days before."""
    found, past = day_figures(today), [day_figures(day) for day in before]
    last = next((one for one, day in zip(past, before, strict=True) if day.day == yesterday), None)
    figures = []
    for key, name, kind in _SHOWN:
        known = [one[key] for one in past if one[key] is not None]
        figures.append(
            KeyFigure(
                name,
                kind,
                found[key],
                last[key] if last else None,
                sum(known) / len(known) if known else None,
                [*(one[key] for one in past), found[key]],
            )
        )
    return figures


def _share(counts: dict[str, int], name: str, market: MarketCounts) -> float | None:
    return counts.get(name, 0) / market.events if market.events else None
