"""Each earlier day's figures, as its `_SUCCESS` keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.storage import join_url
from relevance.annotation.pairs import scored_day
from relevance.labels import LABELS
from relevance.scoring.measures import PreviousDay, find_previous_day, label_shares


@dataclass(frozen=True)
class DayFigures:
    """What a day's manifest says."""

    name: str
    """Its partition, such as `ds=2026-11-22`."""
    url: str
    fingerprint: str
    """Of model, adapter, prompt and tokeniser."""
    figures: Mapping[str, Any]
    model: str = ""

    @property
    def as_previous(self) -> PreviousDay:
        """The day as one that another is checked against."""
        return PreviousDay(self.name, self.model, self.fingerprint, self.figures)

    @property
    def values(self) -> dict[str, float | None]:
        """Numbers by name, as on the page and in MLflow; None: not measured on that day."""
        counts, labels = self.figures["counts"], sum(self.figures["labels"].values())
        histogram = self.figures["label_mass_histogram"]
        measured = self.figures["mean_label_mass"] is not None and sum(histogram) > 0
        shares = label_shares(self.figures) if labels else dict.fromkeys(LABELS)
        return {
            "pairs": float(counts["read"]),
            **{f"share.{label}": share for label, share in shares.items()},
            "failed": counts["failed"] / counts["read"] if counts["read"] else None,
            "reused": (counts["reused"] + counts["repeated"]) / counts["read"] if counts["read"] else None,
            "label_mass.mean": self.figures["mean_label_mass"],
            "label_mass.low": sum(histogram[: len(histogram) // 2]) / sum(histogram) if measured else None,
            "engine_seconds": self.figures["engine_seconds"],
        }


def read_series(url: str, num_before: int) -> list[DayFigures]:
    """Read a day's manifest and those of the committed days before it, oldest first, the day itself last.

    Raises:
        ValueError: If the day is not committed, or by another job than scoring.
    """
    manifest = scored_day(url)
    if not {"labels", "counts"} <= manifest.get("figures", {}).keys():
        raise ValueError(f"{url}: its _SUCCESS has no figures of a scoring run: give a day of jobs.relevance_score")
    root, _, name = url.rstrip("/").rpartition("/")
    days = [DayFigures(name, url.rstrip("/"), manifest.get("plan", {}).get("fingerprint", ""), manifest["figures"])]
    while len(days) <= num_before and (previous := find_previous_day(days[0].url)) is not None:
        place = join_url(root or ".", previous.name)
        days.insert(0, DayFigures(previous.name, place, previous.fingerprint, previous.figures, previous.model))
    return days
