"""Generated pairs with their true labels, without end: the small model's school."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from cluster.settings import Settings
from relevance.labels import LABELS
from relevance.prompting.prompts import PromptEncoder
from relevance.small_model_recipe.catalogue import CatalogueWriter
from relevance.small_model_recipe.matching import MatchingWriter
from relevance.training.examples import ProductExample, tokenize_products

_LABEL_SHARES = {"exact": 0.42, "substitute": 0.36, "complement": 0.08, "irrelevant": 0.14}
_MATCHING_CATALOGUE_TITLES = 2000


class GenerationSettings(Settings):
    """What is drawn."""

    queries_per_product: int = Field(default=8, ge=1)
    """Queries that share a product's tokens in a row: more is cheaper and less varied."""

    products_per_pool: int = Field(default=384, ge=1)
    """Products drawn at a time, from which batches of about the same length are made: an epoch."""

    matching_fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of products with queries about words alone (`matching.py`); the rest is the catalogue."""

    label_smoothing: float = Field(default=0.02, ge=0, lt=1)


class GeneratedPairs:
    """Pools of catalogue and matching pairs, none drawn twice; real text enters only as titles."""

    def __init__(self, titles: Sequence[str], settings: GenerationSettings, *, seed: int) -> None:
        self._titles, self._settings, self._seed = list(titles), settings, seed
        self._matching_titles: list[str] | None = None

    def epoch(self, encoder: PromptEncoder, number: int) -> list[ProductExample]:
        """Draw one pool of products with queries and smoothed labels, tokenised as in scoring."""
        settings = self._settings
        chooser = random.Random(f"{self._seed} {number}")
        catalogue = CatalogueWriter(f"catalogue {self._seed} {number}")
        matching = MatchingWriter(f"matching {self._seed} {number}", self._titles_to_match())
        rows, queries, labels = [], [], []
        for _ in range(settings.products_per_pool):
            if chooser.random() < settings.matching_fraction:
                title = matching.title()
                rows.append({"title": title})
                drawn = [matching.query(title) for _ in range(settings.queries_per_product)]
            else:
                row, drawn = _catalogue_product(catalogue, settings.queries_per_product, chooser)
                rows.append(row)
            queries.append([text for text, _ in drawn])
            labels.append([label for _, label in drawn])
        return tokenize_products(encoder, rows, queries, [_soft(some, settings.label_smoothing) for some in labels])

    def _titles_to_match(self) -> list[str]:
        """Real titles and catalogue ones, so that matching alone never tells which generator was at work."""
        if self._matching_titles is None:
            catalogue = CatalogueWriter(f"catalogue {self._seed}")
            generated = [catalogue.product().title for _ in range(_MATCHING_CATALOGUE_TITLES)]
            self._matching_titles = [*self._titles, *generated]
        return self._matching_titles


def _catalogue_product(
    catalogue: CatalogueWriter, num_queries: int, chooser: random.Random
) -> tuple[dict[str, str | None], list[tuple[str, str]]]:
    offered = catalogue.product()
    row = {"title": offered.title}
    if chooser.random() < 0.3:
        row |= {"brand": offered.item.attributes.get("brand"), "category": offered.department.name}
    wished = chooser.choices(list(_LABEL_SHARES), list(_LABEL_SHARES.values()), k=num_queries)
    drawn = [catalogue.query(offered, label) for label in wished]
    return row, [(query.text, label) for query, label in drawn]


def _soft(labels: Sequence[str], smoothing: float) -> np.ndarray:
    targets = np.full((len(labels), len(LABELS)), smoothing / len(LABELS), dtype=np.float32)
    targets[np.arange(len(labels)), [LABELS.index(label) for label in labels]] += 1 - smoothing
    return targets
