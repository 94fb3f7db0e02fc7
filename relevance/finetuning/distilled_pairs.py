"""Pairs that a larger model labelled, for a smaller one to learn its probabilities from (Hinton et al., 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.provenance import digest_of, hide_credentials
from relevance.evaluation.predictions import read_scores
from relevance.finetuning.pairs import LabelledTexts, keep_unseen
from relevance.pairs.files import find_splits, read_split
from relevance.pairs.pair import clean_pairs

_MAX_TEXT_BYTES = 100_000


@dataclass(frozen=True)
class DistilledPairs:
    """n pairs, aligned; rows that are damaged or that the teacher gave no label are left out."""

    products: Sequence[str]
    """Product segments as the prompt has them (`prompts.product_texts`)."""
    titles: Sequence[str]
    queries: Sequence[str]
    probabilities: np.ndarray
    """float (n, 4): the teacher's, adding up to 1."""
    teacher: str
    """The teacher's version."""

    @property
    def digest(self) -> str:
        """Of all of it; hex, 16 digits."""
        return digest_of([list(self.products), list(self.queries), self.probabilities.round(6).tolist()])

    def without(self, other: LabelledTexts) -> DistilledPairs:
        """Drop the pairs whose query or title stands in `other` too, written in whatever way."""
        keep = keep_unseen(self.queries, self.titles, other)
        return DistilledPairs(
            [self.products[i] for i in keep],
            [self.titles[i] for i in keep],
            [self.queries[i] for i in keep],
            self.probabilities[keep],
            self.teacher,
        )


def read_distilled_pairs(url: str, scores: str) -> DistilledPairs:
    """Read pairs as the scoring job does, and what a model said of them in a finished day of scores.

    Raises:
        ValueError: If a column is missing, the day is not finished or lacks some of the pairs, or no pair is left.
    """
    tables = []
    for split in find_splits(url):
        for raw in read_split(split):
            shown = raw["title"]
            clean = clean_pairs(raw, max_text_bytes=_MAX_TEXT_BYTES)
            tables.append(clean.append_column("shown_title", shown))
    rows = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    rows = rows.filter(pc.is_null(rows["error"]))
    said = read_scores(rows, scores)
    rows = rows.filter(pa.array(said.labelled))
    if not len(rows):
        raise ValueError(f"{hide_credentials(url)}: no pair has a label in {hide_credentials(scores)}: score them")
    probabilities = said.probabilities[said.labelled]
    return DistilledPairs(
        rows["product_text"].to_pylist(),
        rows["shown_title"].cast(pa.string()).to_pylist(),
        rows["query"].to_pylist(),
        probabilities / probabilities.sum(axis=1, keepdims=True),
        said.model_version,
    )
