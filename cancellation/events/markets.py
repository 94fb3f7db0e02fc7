"""The nine simulated markets: languages, money, deadlines and base rates. All figures are invented."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Market:
    """One marketplace site as the simulation knows it.

    `languages` and `foreign` weigh the language of a chat and of a word borrowed into it; `induced_fraction`
    is the share of cancellations that a seller induced; `promise_days` are the usual deadlines.
    """

    code: str
    languages: Mapping[str, float]
    foreign: Mapping[str, float]
    currency: str
    typical_value: float
    utc_offset_hours: float
    promise_days: tuple[int, ...]
    induced_fraction: float


MARKETS = {
    market.code: market
    for market in (
        Market("ID", {"id": 0.95, "en": 0.05}, {"en": 0.04}, "IDR", 120_000, 7, (2, 2, 3), 0.30),
        Market("TH", {"th": 0.95, "en": 0.05}, {"en": 0.04}, "THB", 350, 7, (2, 3, 3), 0.24),
        Market("VN", {"vi": 0.97, "en": 0.03}, {"en": 0.03}, "VND", 250_000, 7, (2, 3, 4), 0.28),
        Market("PH", {"tl": 0.60, "en": 0.40}, {"en": 0.20, "tl": 0.10}, "PHP", 450, 8, (3, 3, 4), 0.27),
        Market(
            "MY",
            {"ms": 0.60, "en": 0.28, "zh-Hans": 0.12},
            {"en": 0.12, "ms": 0.06},
            "MYR",
            45,
            8,
            (2, 3, 3),
            0.22,
        ),
        Market(
            "SG",
            {"en": 0.82, "zh-Hans": 0.18},
            {"zh-Hans": 0.03, "en": 0.03},
            "SGD",
            28,
            8,
            (2, 3, 4),
            0.17,
        ),
        Market("TW", {"zh": 0.98, "en": 0.02}, {"en": 0.02}, "TWD", 480, 8, (3, 5, 7), 0.20),
        Market("BR", {"pt": 0.99, "en": 0.01}, {"en": 0.01}, "BRL", 90, -3, (3, 4, 6), 0.31),
        Market("MX", {"es": 0.98, "en": 0.02}, {"en": 0.03}, "MXN", 320, -6, (3, 4, 5), 0.26),
    )
}
"""By code. Overall about a quarter of the cancellations is induced."""

LANGUAGES = frozenset(language for market in MARKETS.values() for language in market.languages)
"""Codes of what is typed in them."""


def require_languages(codes: Iterable[str], *, setting: str) -> None:
    """Refuse codes of languages that no market types.

    Raises:
        ValueError: If there are some, naming the setting.
    """
    if unknown := sorted(set(codes) - LANGUAGES):
        known = ", ".join(sorted(LANGUAGES))
        raise ValueError(f"{setting}: expected some of {known}, found {', '.join(unknown)}; correct them")
