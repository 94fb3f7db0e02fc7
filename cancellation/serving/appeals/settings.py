"""How long appeals may be lodged and take, and what a statement of reasons says about its sender."""

from __future__ import annotations

from pydantic import Field

from cluster.settings import Settings


class AppealSettings(Settings):
    """Deadlines, and the words that only the platform knows."""

    window_days: float = Field(default=183.0, gt=0)
    """After the decision a seller may appeal for so long; the Digital Services Act (Art. 20) asks for six months."""

    decide_days: float = Field(default=14.0, gt=0)
    """After it came in, an appeal that is not decided is overdue: first in the queue, and counted."""

    archive_seconds: float = Field(default=30.0, gt=0)
    """A decision in the archive is waited for so long; then the caller is told to come again."""

    platform: str = "the marketplace"
    """Who decides, as a statement of reasons names it."""

    terms: str = "the seller terms on cancellations brought about by the seller"
    """What the seller is held to, such as the clause of the terms and where they can be read."""

    contact: str = "the appeal form of your seller account"
    """Where a seller appeals, free of charge."""

    out_of_court: str = (
        "you may also bring the matter to a certified out-of-court dispute settlement body, or to a court"
    )
    """What else a seller can do (Art. 17, 3 f)."""
