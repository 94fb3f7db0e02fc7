"""Few labels, stretched: a teacher (`teacher.py`) gives its opinion of pairs that nobody labelled.

It judges weakly labelled pairs, and real queries and titles in new combinations (`recombined.py`). Generated pairs with
their true labels keep alive what pre-training taught.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from cluster.models.files import ModelFiles, ModelName
from cluster.settings import Settings
from relevance.finetuning.cross_encoder import CrossEncoderSettings
from relevance.finetuning.pairs import LabelledTexts, WeakPairs
from relevance.finetuning.recombined import QueryDrawing
from relevance.finetuning.teacher import Teacher
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

    cross_encoder: CrossEncoderSettings = CrossEncoderSettings()
    """Whether the encoder also reads query and title together: half of the teacher's opinion then is its own."""


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

        From labelled pairs of `others` the teacher alone learns. `encoder` is what `settings.encoder` means.
        """
        self._settings, self._seed = settings, seed
        self._titles = [*labelled.titles, *weak.titles]
        self._queries = [*labelled.queries, *weak.queries]
        self._labelled = len(labelled.titles)
        self._teacher = Teacher(
            labelled, weak, others, settings.cross_encoder, seed=seed, cache_dir=cache_dir, encoder=encoder
        )
        share = settings.teacher_share
        opinion = self.probabilities(labelled.queries, labelled.titles) * targets.sum(axis=1, keepdims=True)
        mixed = (1 - share) * targets + share * opinion
        self._targets = np.concatenate([mixed, self._teacher.weak_opinion]).astype(np.float32)
        self._drawing = QueryDrawing(self._queries, self._titles)

    def probabilities(self, queries: Sequence[str], titles: Sequence[str]) -> np.ndarray:
        """The teacher's opinion of pairs, (n, 4)."""
        return self._teacher.probabilities(queries, titles)

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
