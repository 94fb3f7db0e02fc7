"""Whose opinion stretches few labels: boosted trees, and maybe a cross-encoder beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.models.files import ModelFiles
from cluster.models.sentence_encoder import SentenceEncoder
from relevance.evaluation.overlap import FeatureTeacher, OverlapFeatures, combine_with_answers
from relevance.finetuning.cross_encoder import CrossEncoder, CrossEncoderSettings
from relevance.finetuning.pairs import LabelledTexts, WeakPairs
from relevance.labels import LABELS

_LEAST = 1e-4
"""Of a probability: one judge alone rules no label out."""


class Teacher:
    """Label probabilities of pairs that nobody labelled.

    Boosted trees go by spelling and, where an encoder is named, by how near query and title lie in meaning. A
    cross-encoder learns from other pairs than the trees, errs otherwise, and has never seen the labels that its
    opinion is mixed with; the two are joined by their geometric mean.
    """

    def __init__(
        self,
        labelled: LabelledTexts,
        weak: WeakPairs,
        others: Sequence[LabelledTexts],
        reading: CrossEncoderSettings,
        *,
        seed: int,
        cache_dir: str,
        encoder: ModelFiles | None,
    ) -> None:
        """Learn from the labelled and the weak pairs, and from labelled pairs of `others`.

        Those teach the cross-encoder alone if there is one (`reading.epochs`), else the trees, weighed so that they
        have the four labels as often as the labelled ones: what people mean by a label is much the same in each
        source, how often they say it is not.
        """
        has_reader = encoder is not None and reading.epochs > 0
        beside = [] if has_reader else others
        titles = [title for some in (labelled, weak, *beside) for title in some.titles]
        self._overlap = OverlapFeatures(titles)
        self._likeness = _Likeness(SentenceEncoder(encoder, cache_dir=cache_dir)) if encoder else None
        self._trees = FeatureTeacher(seed=seed)
        everything = [labelled, *beside]
        self.weak_opinion = self._trees.fit(
            np.vstack([self._features(some.queries, some.titles) for some in everything]),
            np.concatenate([some.labels for some in everything]),
            self._features(weak.queries, weak.titles),
            weak.is_substitute,
            weights=np.concatenate([weights_as_in(labelled.labels, some.labels) for some in everything]),
        )
        """What the weak pairs' labels probably are by opinion and answer, float (m, 4)."""
        self._reader: CrossEncoder | None = None
        if encoder and has_reader:
            self._reader = CrossEncoder(encoder, others, weak, reading, seed=seed, cache_dir=cache_dir)
            opinion = self.probabilities(weak.queries, weak.titles)
            self.weak_opinion, _ = combine_with_answers(opinion, weak.is_substitute)

    def probabilities(self, queries: Sequence[str], titles: Sequence[str]) -> np.ndarray:
        """Its opinion of pairs, float (n, 4)."""
        opinion = self._trees.probabilities(self._features(queries, titles))
        if self._reader is None:
            return opinion
        read = self._reader.probabilities(queries, titles)
        joined = np.sqrt(np.maximum(opinion, _LEAST) * np.maximum(read, _LEAST))
        return joined / joined.sum(axis=1, keepdims=True)

    def _features(self, queries: Sequence[str], titles: Sequence[str]) -> np.ndarray:
        overlap = self._overlap(queries, titles)
        return overlap if self._likeness is None else np.hstack([overlap, self._likeness(queries, titles)])


class _Likeness:
    """How near what a query asks for lies to what a title says, by the cosine of an encoder's vectors."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self._encoder = encoder
        self._known: dict[tuple[str, str], np.ndarray] = {}

    def __call__(self, queries: Sequence[str], titles: Sequence[str]) -> np.ndarray:
        """Compare pair by pair, (n, 1)."""
        asked, offered = self._vectors("query: ", queries), self._vectors("passage: ", titles)
        return (asked * offered).sum(axis=1, keepdims=True)

    def _vectors(self, prefix: str, texts: Sequence[str]) -> np.ndarray:
        if new := [text for text in dict.fromkeys(texts) if (prefix, text) not in self._known]:
            vectors = self._encoder(new, prefix=prefix)
            self._known |= {(prefix, text): vector for text, vector in zip(new, vectors, strict=True)}
        return np.array([self._known[prefix, text] for text in texts])


def weights_as_in(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Weigh the labels `others`, (m,), so that each of the four has the share that it has in `labels`."""
    own, theirs = (np.bincount(some, minlength=len(LABELS)) / len(some) for some in (labels, others))
    return (own / np.maximum(theirs, 1e-9))[others]
