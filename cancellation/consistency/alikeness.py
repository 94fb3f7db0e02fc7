"""How alike several answers to one question are: verdicts, factors, and texts in any script.

All figures are 1 where everything is equal. Texts are compared by words, and by characters where a script writes no
spaces between words (Thai, Chinese): cut at spaces, two different Thai sentences would have nothing in common, and
tools for English give 0 even to equal ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from typing import Any, TypeVar

from sacrebleu.metrics import BLEU

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_WORDS = re.compile(r"\w+")
_BLEU = {unspaced: BLEU(tokenize="char" if unspaced else "13a", effective_order=True) for unspaced in (True, False)}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Said:
    """One answer of several to the same question."""

    verdict: str
    factors: frozenset[str] | None
    """None: not read."""
    reasoning: str | None
    """None: not read, or cut off."""


@dataclass(frozen=True, slots=True)
class Alikeness:
    """Of the answers to one question, each from 0 to 1; None where fewer than two answers have what it compares."""

    verdict_agreement: float
    """Chance that two answers give the same verdict."""
    flip_rate: float
    """Share of the answers that give another verdict than most; the one figure that is 0 at best."""
    factor_jaccard: float | None
    self_bleu: float | None
    self_rouge_l: float | None
    self_cosine: float | None
    self_jaccard: float | None


def alikeness(answers: Sequence[Said]) -> Alikeness:
    """Compare answers with one another.

    Raises:
        ValueError: If there are fewer than two.
    """
    if len(answers) < 2:
        raise ValueError(f"alikeness: expected two answers or more, found {len(answers)}; set runs=2 or more")
    verdicts = Counter(answer.verdict for answer in answers)
    texts = [answer.reasoning for answer in answers if answer.reasoning is not None]
    factors = [answer.factors for answer in answers if answer.factors is not None]
    spoken = len(texts) > 1
    return Alikeness(
        verdict_agreement=mean_pairwise([answer.verdict for answer in answers], lambda a, b: float(a == b)),
        flip_rate=1 - max(verdicts.values()) / len(answers),
        factor_jaccard=mean_pairwise(factors, jaccard) if len(factors) > 1 else None,
        self_bleu=self_bleu(texts) if spoken else None,
        self_rouge_l=mean_pairwise(texts, rouge_l) if spoken else None,
        self_cosine=mean_pairwise(texts, cosine) if spoken else None,
        self_jaccard=mean_pairwise(texts, _shared_tokens) if spoken else None,
    )


def _shared_tokens(one: str, other: str) -> float:
    return jaccard(frozenset(tokens(one)), frozenset(tokens(other)))


def tokens(text: str) -> list[str]:
    """Cut a text into words, or into characters where its script writes no spaces."""
    folded = text.casefold()
    if _UNSPACED.search(folded):
        return [character for character in folded if character.isalnum() or _UNSPACED.match(character)]
    return _WORDS.findall(folded)


def mean_pairwise(items: Sequence[T], likeness: Callable[[T, T], float]) -> float:
    """Mean over all pairs; equal items are compared once for all their pairs."""
    counts: Counter[Any] = Counter(items)
    total = len(items) * (len(items) - 1) / 2
    same = sum(count * (count - 1) / 2 * likeness(item, item) for item, count in counts.items() if count > 1)
    other = sum(counts[a] * counts[b] * likeness(a, b) for a, b in combinations(counts, 2))
    return (same + other) / total


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Share of what two sets have together that both have; two empty ones are equal."""
    both = one | other
    return len(one & other) / len(both) if both else 1.0


def cosine(one: str, other: str) -> float:
    """Cosine of the counts of tokens."""
    a, b = Counter(tokens(one)), Counter(tokens(other))
    if not a or not b:
        return float(a == b)
    dot = sum(count * b[token] for token, count in a.items())
    return dot / sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))


def rouge_l(one: str, other: str) -> float:
    """F1 of the longest common subsequence of tokens (Lin, 2004)."""
    a, b = tokens(one), tokens(other)
    if not a or not b:
        return float(a == b)
    row = [0] * (len(b) + 1)
    for left in a:
        before = 0
        for place, right in enumerate(b, 1):
            before, row[place] = row[place], before + 1 if left == right else max(row[place], row[place - 1])
    return 2 * row[-1] / (len(a) + len(b))


def self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU of each text with all the others as references (Zhu et al., 2018)."""
    counts = Counter(texts)
    total = 0.0
    for text, count in counts.items():
        references = [other for other in counts if other != text or count > 1]
        bleu = _BLEU[any(_UNSPACED.search(one) for one in (text, *references))]
        score = bleu.sentence_score(text, references).score if text.strip() else 100.0 * (count > 1)
        total += count * min(score / 100, 1.0)
    return total / len(texts)
