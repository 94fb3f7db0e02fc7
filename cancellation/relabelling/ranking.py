"""Which human labels are likely wrong: confident learning over the opinions of judges that never saw the label.

A label's quality is the probability that judges give to it, each judge weighed by how well it foresees what people say
(self-confidence; Northcutt, Jiang, Chuang, Confident Learning, 2021; Kuan and Mueller, Model-agnostic label quality
scoring, 2022), by cleanlab 2.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST = 1e-9
"""Added to every chance, so that they can be divided by their sum."""


@dataclass(frozen=True)
class Suspicion:
    """How far judges doubt n labels."""

    quality: np.ndarray
    """In [0, 1], (n,); low is doubtful."""

    contradicted: np.ndarray
    """How many judges hold another verdict for likelier, (n,)."""

    def order(self) -> np.ndarray:
        """Places of the contradicted labels, the most doubtful first."""
        places = np.flatnonzero(self.contradicted)
        return places[np.argsort(self.quality[places], kind="stable")]


def doubt_labels(labels: np.ndarray, opinions: Sequence[np.ndarray]) -> Suspicion:
    """Hold labels against what judges say who were taught without them.

    Args:
        labels: Class numbers, (n,).
        opinions: Probabilities of the classes, (n, 3), one array a judge.
    """
    from cleanlab.rank import get_label_quality_ensemble_scores

    # A class that no label is of is none in these markets: judges' chances of it go to the others.
    present, places = np.unique(labels, return_inverse=True)
    given = [np.asarray(opinion, np.float64)[:, present] + _LEAST for opinion in opinions]
    given = [opinion / opinion.sum(axis=1, keepdims=True) for opinion in given]
    quality = get_label_quality_ensemble_scores(
        places, given, method="self_confidence", weight_ensemble_members_by="log_loss_search", verbose=False
    )
    contradicted = np.sum([opinion.argmax(axis=1) != places for opinion in given], axis=0)
    return Suspicion(np.asarray(quality, np.float64), contradicted)
