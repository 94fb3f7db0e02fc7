"""Real queries and titles in new combinations: pairs without end that nobody labelled, for a teacher to judge.

Most are near each other on purpose. A query drawn at random is irrelevant nearly always and teaches little.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from pydantic import Field

from cluster.settings import Settings
from relevance.evaluation.pairs import fold_text
from relevance.small_model_recipe.matching import split_words


@dataclass(frozen=True)
class DrawnQuery:
    """A query for a title."""

    text: str
    is_stranger: bool
    """Whether another title's query was taken as it is, at random."""


class QueryDrawing:
    """Draws queries for titles, each of which has one of its own."""

    def __init__(self, queries: Sequence[str], titles: Sequence[str]) -> None:
        self._queries, self._titles = queries, titles
        self._words = [split_words(query) for query in queries]
        self._pool = [word for words in self._words for word in words]

    def draw(self, row: int, draw: random.Random) -> DrawnQuery:
        """Change the title's own query by a word or two, cut one out of the title, or take a stranger's."""
        kind = draw.random()
        words = list(self._words[row]) or ["item"]
        if kind < 0.2:
            return DrawnQuery(draw.choice(self._queries), is_stranger=True)
        if kind < 0.45:
            words = split_words(self._titles[row]) or words
            length = min(draw.randint(1, 5), len(words))
            start = draw.randrange(len(words) - length + 1)
            words = words[start : start + length] if draw.random() < 0.5 else draw.sample(words, length)
        for _ in range(draw.choice((0, 1, 1, 2)) if kind < 0.45 else draw.choice((1, 1, 2))):
            at, change = draw.randrange(len(words)), draw.random()
            if change < 0.3 and len(words) > 1:
                del words[at]
            elif change < 0.65:
                words[at] = draw.choice(self._pool)
            else:
                words.insert(at, draw.choice(self._pool))
        return DrawnQuery(" ".join(words), is_stranger=False)


class RecombinationSettings(Settings):
    """How many pairs, and how near the queries are to their titles."""

    queries_per_title: int = Field(default=8, ge=1)
    """The title's own first; the same one is never drawn twice."""

    near_share: float = Field(default=0.5, ge=0, le=1)
    """Of the drawn queries: somebody's real one that shares a word with the title, the rarer the word the likelier. The
    rest is as `QueryDrawing` draws."""

    seed: int = 0


def recombine(queries: Sequence[str], titles: Sequence[str], settings: RecombinationSettings) -> pa.Table:
    """Draw pairs of n queries and titles, aligned; a title that stands there several times has several of its own.

    Returns:
        The columns query_id, query, product_id, title, as the scoring job reads them, ids made of the place.
    """
    drawing, near = QueryDrawing(queries, titles), _NearQueries(queries)
    draw = random.Random(settings.seed)
    own: defaultdict[str, list[int]] = defaultdict(list)
    for row, title in enumerate(titles):
        own[title].append(row)
    rows: list[tuple[str, str, str, str]] = []
    for number, (title, places) in enumerate(own.items()):
        found = {fold_text(queries[row]): queries[row] for row in places}
        for _ in range(4 * settings.queries_per_title):  # what was drawn before counts once
            if len(found) >= settings.queries_per_title:
                break
            text = near.draw(title, draw) if draw.random() < settings.near_share else None
            text = text or drawing.draw(draw.choice(places), draw).text
            found.setdefault(fold_text(text), text)
        rows += [(f"q{number}-{place}", text, f"p{number}", title) for place, text in enumerate(found.values())]
    names = ("query_id", "query", "product_id", "title")
    return pa.table({name: pa.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})


class _NearQueries:
    """Real queries by their words."""

    def __init__(self, queries: Sequence[str]) -> None:
        self._by_word: defaultdict[str, list[str]] = defaultdict(list)
        for query in dict.fromkeys(queries):
            for word in set(split_words(query)):
                self._by_word[word].append(query)

    def draw(self, title: str, draw: random.Random) -> str | None:
        """Take a query that shares a word with the title; None where none does."""
        words = [word for word in dict.fromkeys(split_words(title)) if word in self._by_word]
        if not words:
            return None
        word = draw.choices(words, [1 / len(self._by_word[word]) for word in words])[0]
        return draw.choice(self._by_word[word])
