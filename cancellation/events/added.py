"""What a team adds of its own, features and decision factors: Python modules that a setting of the environment names.

The environment, because a model's inputs and outputs have to be the same in every process that touches it, and batch
jobs, replicas and the driver all get it in the same way (docs/train_cancellation.md).
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

ADDED = "CANCELLATION_ADDED"
"""Names of modules, separated by commas. A module may hold `FEATURES`, a tuple of `features.measures.Feature` whose
`compute` takes an `Event` and gives a float, and `FACTORS`, codes with what each means."""


def added_modules() -> tuple[ModuleType, ...]:
    """Import the modules.

    Raises:
        ValueError: If there is none of that name.
    """
    names = [name.strip() for name in os.environ.get(ADDED, "").split(",") if name.strip()]
    modules = []
    for name in names:
        try:
            modules.append(import_module(name))
        except ImportError as error:
            raise ValueError(
                f"{ADDED}: expected modules that can be imported, found {name} ({error}); install it on all machines, "
                "or send it along with the job's code"
            ) from error
    return tuple(modules)


def added_factors() -> dict[str, str]:
    """Give the added decision factors' codes and what each means, in order.

    Raises:
        ValueError: If a code does not say whose it is: `buyer.…` is a buyer's own reason, all others speak of a seller.
    """
    factors: dict[str, str] = {}
    for module in added_modules():
        for code, meaning in getattr(module, "FACTORS", {}).items():
            if code.partition(".")[0] not in ("chat", "call", "fulfilment", "seller", "buyer") or code in factors:
                raise ValueError(
                    f"{ADDED}: {module.__name__}: expected codes that begin with chat, call, fulfilment, seller or "
                    f"buyer and a dot, each once, found {code}"
                )
            factors[code] = meaning
    return factors
