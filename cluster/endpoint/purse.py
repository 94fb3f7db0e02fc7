"""A budget in dollars that many requests share: what a request may cost at most is put aside before it is sent."""

from __future__ import annotations

import threading


class BudgetSpentError(RuntimeError):
    """The budget does not hold another request."""


class Purse:
    """Money for requests. Safe to be used by several threads."""

    def __init__(self, budget_usd: float | None, *, spent_usd: float = 0.0) -> None:
        """Begin with a budget, of which earlier runs have spent some; None: as much as it takes."""
        self.budget_usd, self._spent, self._reserved = budget_usd, spent_usd, 0.0
        self._changed = threading.Condition()

    @property
    def spent_usd(self) -> float:
        """What was paid so far, earlier runs included."""
        with self._changed:
            return self._spent

    def reserve(self, most_usd: float) -> None:
        """Put aside what a request may cost at most; wait while only others' reservations stand in its way.

        Raises:
            BudgetSpentError: If it does not fit even when nothing else is on its way.
        """
        with self._changed:
            while self.budget_usd is not None and self._spent + self._reserved + most_usd > self.budget_usd:
                if not self._reserved:
                    raise BudgetSpentError(
                        f"budget of ${self.budget_usd:.4f}: ${self._spent:.4f} are spent, and the next request may "
                        f"cost ${most_usd:.4f}; raise budget_usd and run again, what is done stays done"
                    )
                self._changed.wait()
            self._reserved += most_usd

    def settle(self, most_usd: float, cost_usd: float) -> None:
        """Pay what a request cost, and give the rest of what was put aside free."""
        with self._changed:
            self._reserved = max(self._reserved - most_usd, 0.0)
            if self._reserved < 1e-12:  # what is left of sums of floats is nobody's
                self._reserved = 0.0
            self._spent += cost_usd
            self._changed.notify_all()
