"""Few labels, stretched: a teacher fitted on them gives its opinion of pairs that nobody labelled.

The teacher (`relevance.evaluation.overlap`) compares spelling, and meaning where an encoder is named; it judges weakly
labelled pairs and real queries and titles in new combinations (`recombined.py`). Generated pairs with their true labels
keep alive what pre-training taught.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from cluster.models.files import ModelFiles, ModelName
from cluster.models.sentence_encoder import SentenceEncoder
from cluster.settings import Settings
from relevance.evaluation.overlap import FeatureTeacher, OverlapFeatures
from relevance.finetuning.pairs import LabelledTexts, WeakPairs
from relevance.finetuning.recombined import QueryDrawing
from relevance.labels import LABELS
from relevance.prompting.prompts import PromptEncoder
from relevance.small_model_recipe.generated_pairs import GeneratedPairs, GenerationSettings
from relevance.training.examples import ProductExample, tokenize_products

_STRANGER = np.array([0.1, 0.1, 0.2, 1.0])
"""Odds of each label for a query drawn at random, against a query for which a shop had shown the product."""


class TeachingSettings(Settings):
    """How far the labels are stretched."""

    teacher_share: float = Field(default=0.5, ge=0, le=1)
    """How much of a labelled pair's target is the teacher's opinion: the labels are noisy, so is a small model."""

    taught_epochs: int | None = Field(default=None, ge=1)
    """Passes that begin the training with what people have not labelled in them; those after see the labelled pairs
    alone, the teacher's share in their targets as before. Null: all."""

    taught_queries_per_title: int = Field(default=2, ge=0)
    """Further queries per title and epoch that only the teacher has labelled."""

    catalogue_products: int = Field(default=300, ge=0)
    """Generated products per epoch, four queries each with their true labels: what was learnt there is kept."""

    label_repeats: int = Field(default=2, ge=1)
    """How often a labelled pair comes in each epoch."""

    encoder: ModelName | None = None
    """Encoder of sentence vectors by which the teacher compares meanings too: a folder, an s3:// folder,
    models:/name@alias or a hub repository, such as var/pretrained/multilingual-e5-small (`make pretrained`). None:
    spelling alone."""


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


class TaughtPairs:
    """Epochs of examples: labelled pairs, weakly labelled pairs and recombined ones with the teacher's opinion."""

    def __init__(
        self,
        labelled: LabelledTexts,
        targets: np.ndarray,
        weak: WeakPairs,
        settings: TeachingSettings,
        *,
        seed: int,
        cache_dir: str,
        encoder: ModelFiles | None = None,
        others: Sequence[LabelledTexts] = (),
    ) -> None:
        """Fit the teacher; `targets` (n, 4) are the labelled pairs' smoothed and weighed labels.

        From labelled pairs of `others` the teacher alone learns, weighed so that they have the four labels as often as
        the labelled ones: what people mean by a label is much the same in each source, how often they say it is not.
        `encoder` is what `settings.encoder` means.
        """
        self._settings, self._seed = settings, seed
        self._titles = [*labelled.titles, *weak.titles]
        self._queries = [*labelled.queries, *weak.queries]
        self._labelled = len(labelled.titles)
        self._overlap = OverlapFeatures([*self._titles, *(title for some in others for title in some.titles)])
        self._likeness = _Likeness(SentenceEncoder(encoder, cache_dir=cache_dir)) if encoder else None
        self.teacher = FeatureTeacher(seed=seed)
        own = self._features(labelled.queries, labelled.titles)
        everything = [labelled, *others]
        posterior = self.teacher.fit(
            np.vstack([own, *(self._features(some.queries, some.titles) for some in others)]),
            np.concatenate([some.labels for some in everything]),
            self._features(weak.queries, weak.titles),
            weak.is_substitute,
            weights=np.concatenate([weights_as_in(labelled.labels, some.labels) for some in everything]),
        )
        share = settings.teacher_share
        opinion = self.teacher.probabilities(own) * targets.sum(axis=1, keepdims=True)
        mixed = (1 - share) * targets + share * opinion
        self._targets = np.concatenate([mixed, posterior]).astype(np.float32)
        self._drawing = QueryDrawing(self._queries, self._titles)

    def probabilities(self, queries: Sequence[str], titles: Sequence[str]) -> np.ndarray:
        """The teacher's opinion of pairs, (n, 4)."""
        return self.teacher.probabilities(self._features(queries, titles))

    def _features(self, queries: Sequence[str], titles: Sequence[str]) -> np.ndarray:
        overlap = self._overlap(queries, titles)
        return overlap if self._likeness is None else np.hstack([overlap, self._likeness(queries, titles)])

    def epoch(self, encoder: PromptEncoder, number: int) -> list[ProductExample]:
        """Tokenise one epoch: every title with its own query and some taught ones, or the labelled pairs alone."""
        taught_epochs = self._settings.taught_epochs
        is_taught = taught_epochs is None or number < taught_epochs
        own_titles = self._titles if is_taught else self._titles[: self._labelled]
        draw = random.Random(f"{self._seed} {number}")
        drawn = [
            [self._drawing.draw(row, draw) for _ in range(self._settings.taught_queries_per_title if is_taught else 0)]
            for row in range(len(own_titles))
        ]
        queries = [[query, *(one.text for one in some)] for query, some in zip(self._queries, drawn, strict=False)]
        flat = [one.text for some in drawn for one in some]
        titles = [title for title, some in zip(own_titles, drawn, strict=True) for _ in some]
        taught = self.probabilities(flat, titles) if flat else np.zeros((0, len(LABELS)))
        strange = np.array([one.is_stranger for some in drawn for one in some], dtype=bool)
        taught[strange] *= _STRANGER
        taught /= taught.sum(axis=1, keepdims=True)
        targets, start = [], 0
        for row, own in enumerate(queries):
            end = start + len(own) - 1
            targets.append(np.vstack([self._targets[row : row + 1], taught[start:end]]).astype(np.float32))
            start = end
        repeats = self._settings.label_repeats - 1
        for row in range(self._labelled):
            queries[row] = queries[row] + [self._queries[row]] * repeats
            targets[row] = np.vstack([targets[row], *[self._targets[row : row + 1]] * repeats])
        examples = tokenize_products(encoder, [{"title": title} for title in own_titles], queries, targets)
        return examples + (self._catalogue_examples(encoder, number) if is_taught else [])

    def _catalogue_examples(self, encoder: PromptEncoder, number: int) -> list[ProductExample]:
        if not self._settings.catalogue_products:
            return []
        drawing = GenerationSettings(
            products_per_pool=self._settings.catalogue_products, queries_per_product=4, matching_fraction=0
        )
        return GeneratedPairs(self._titles, drawing, seed=self._seed + 1000 * (number + 1)).epoch(encoder, 0)
