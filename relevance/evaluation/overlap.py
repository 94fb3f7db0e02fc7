"""Word overlap: what can be told of a pair without knowing what a word means.

The baseline that every model has to beat, and the teacher that shows a small model how much a missing
word weighs.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from relevance.labels import LABELS

_LINK_WORDS = frozenset(
    ("a", "an", "and", "best", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with", "without", "no", "not")
)
_HEAD_ENDS = ("for", "with", "without", "of", "by", "in", "on", "to", "from")
_NEGATIONS = frozenset(("no", "not", "without", "non", "free"))

FEATURES = (
    "share",
    "soft_share",
    "rarity_share",
    "soft_rarity_share",
    "head",
    "soft_head",
    "last",
    "first",
    "soft_first",
    "num_missing",
    "num_content_words",
    "num_query_words",
    "num_title_words",
    "number_share",
    "num_numbers",
    "negated",
    "mean_place",
    "first_place",
    "neighbours_share",
    "rarest_missing",
    "all",
    "none",
)
"""Columns of `OverlapFeatures`; the baseline uses `BASELINE_FEATURES` of them."""

BASELINE_FEATURES = ("share", "head", "num_missing", "num_content_words")


class OverlapFeatures:
    """Numbers about which of the query's words stand in the title, word rarity learnt from `titles`."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._num_titles = len(titles)
        self._document_count = Counter(word for title in titles for word in set(_stems(title)))

    def __call__(self, queries: Sequence[str], titles: Sequence[str]) -> np.ndarray:
        """Compute the features, float64 (n, len(FEATURES))."""
        return np.array([self._row(query, title) for query, title in zip(queries, titles, strict=True)])

    def _rarity(self, words: Sequence[str]) -> np.ndarray:
        return np.array([np.log((1 + self._num_titles) / (1 + self._document_count[word])) for word in words])

    def _row(self, query: str, title: str) -> list[float]:
        words, stems, offered = _words(query), _stems(query), _stems(title)
        if not words:
            return [0.0] * len(FEATURES)
        joined, distinct = "".join(_words(title)), set(offered)
        soft = np.array([_likeness(w, s, distinct, joined) for w, s in zip(words, stems, strict=True)])
        hit, rarity = (soft >= 0.9).astype(float), self._rarity(stems)
        content = np.array([i for i, word in enumerate(words) if word not in _LINK_WORDS] or range(len(words)))
        head = min([words.index(end, 1) - 1 for end in _HEAD_ENDS if end in words[1:]] or [len(words) - 1])
        numbers = [i for i, word in enumerate(words) if word.isdigit()]
        places = [offered.index(stem) / len(offered) for stem in stems if stem in distinct] or [1.0]
        missing = [i for i in content if not hit[i]]
        weight = max(rarity[content].sum(), 1e-6)
        neighbours = set(itertools.pairwise(stems))
        kept = len(neighbours & set(itertools.pairwise(offered))) / max(len(neighbours), 1)
        return [
            *(hit[content].mean(), soft[content].mean()),
            *((rarity * hit)[content].sum() / weight, (rarity * soft)[content].sum() / weight),
            *(hit[head], soft[head], hit[content[-1]], hit[content[0]], soft[content[0]]),
            *(len(missing), len(content), len(words), len(offered)),
            *(hit[numbers].mean() if numbers else -0.5, len(numbers), float(bool(_NEGATIONS & set(words)))),
            *(float(np.mean(places)), min(places), kept, max(rarity[missing], default=0.0)),
            *(float(hit[content].all()), float(not hit[content].any())),
        ]


def _words(text: str) -> list[str]:
    return re.findall(r"\d+|[^\W\d_]+", re.sub(r"['’]s?\b", "", text.lower()))


def _stems(text: str) -> list[str]:
    return [_stem(word) for word in _words(text)]


def _stem(word: str) -> str:
    """Cut the commonest English endings; both sides of a comparison are cut alike."""
    if re.fullmatch(r"[a-z]{3,}[^s]s", word):
        word = word[:-1]
    if word.endswith("ie"):
        word = word[:-2] + "y"
    for ending in ("ing", "ed", "er"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word[: -len(ending)]
    return word.rstrip("e") if len(word) > 3 else word


def _likeness(word: str, stem: str, offered: set[str], joined: str) -> float:
    """Say how surely a word is in a title: 1 as a stem, 0.9 inside a run of letters, else by letter triples."""
    if stem in offered:
        return 1.0
    if len(word) > 3 and word in joined:
        return 0.9
    own = _triples(stem)
    return max((len(own & other) / len(own | other) for other in map(_triples, offered)), default=0.0)


def _triples(word: str) -> set[str]:
    padded = f"<{word}>"
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def fit_baseline(features: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    """Fit logistic regression on `BASELINE_FEATURES`; `features` as of `OverlapFeatures`, `labels` (n,) in 0..3."""
    columns = [FEATURES.index(name) for name in BASELINE_FEATURES]
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(features[:, columns], labels)


def predict_baseline(model: LogisticRegression, features: np.ndarray) -> np.ndarray:
    """Label numbers (n,) by the fitted baseline."""
    return model.predict(features[:, [FEATURES.index(name) for name in BASELINE_FEATURES]])


class FeatureTeacher:
    """Label probabilities from numbers about a pair, fitted on human labels and on noisy substitute-or-not answers."""

    def __init__(self, *, seed: int = 0) -> None:
        self._seed = seed

    def fit(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        weak_features: np.ndarray,
        is_substitute: np.ndarray,
        *,
        weights: np.ndarray,
    ) -> np.ndarray:
        """Fit, and return what the weak pairs' labels probably are, float (m, 4); `weights` are the human labels'.

        The human labels give a first model; its opinion and the noisy answer give each weak pair a
        distribution over labels; human and weak pairs together give the final model.
        """
        first = self._fit(features, labels, weights)
        posterior, _ = combine_with_answers(_probabilities(first, weak_features), is_substitute)
        rows = np.vstack([features, *[weak_features] * len(LABELS)])
        targets = np.concatenate([labels, np.repeat(np.arange(len(LABELS)), len(weak_features))])
        self._model = self._fit(rows, targets, np.concatenate([weights, 0.5 * posterior.T.ravel()]))
        posterior, _ = combine_with_answers(self.probabilities(weak_features), is_substitute)
        return posterior

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Label probabilities, float (n, 4)."""
        return _probabilities(self._model, features)

    def _fit(self, features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> GradientBoostingClassifier:
        model = GradientBoostingClassifier(
            n_estimators=60, max_depth=3, learning_rate=0.08, subsample=0.7, random_state=self._seed
        )
        return model.fit(features, labels, sample_weight=weights)


def _probabilities(model: GradientBoostingClassifier, features: np.ndarray) -> np.ndarray:
    full = np.zeros((len(features), len(LABELS)))
    full[:, model.classes_] = model.predict_proba(features)
    return full


def combine_with_answers(
    probabilities: np.ndarray, is_substitute: np.ndarray, *, rounds: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Combine a model's opinion with noisy yes-no answers whose reliability per label is unknown.

    Expectation-maximisation in the manner of Dawid and Skene (1979): the answer's reliability is
    estimated from the opinions, the opinions are then corrected by the answer.

    Args:
        probabilities: Opinion of the labels, (m, 4).
        is_substitute: The answers, bool (m,).
        rounds: Alternations; the estimate settles within ten.

    Returns:
        Corrected probabilities (m, 4) and the estimated share of yes per label (4,).
    """
    yes = is_substitute.astype(float)
    posterior = probabilities
    for _ in range(rounds):
        share = np.clip((posterior * yes[:, None]).sum(0) / np.maximum(posterior.sum(0), 1e-9), 0.02, 0.98)
        likelihood = np.where(is_substitute[:, None], share, 1 - share)
        posterior = probabilities * likelihood
        posterior /= posterior.sum(1, keepdims=True)
    return posterior, share
