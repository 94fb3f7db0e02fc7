"""A small real verdict model for tests of what surrounds one: it judges by words and features, without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from cancellation.events.factors import FACTORS
from cancellation.events.markets import MARKETS
from cancellation.features.vector import feature_names
from cancellation.model.spec import ModelIdentity, ModelSpec
from cancellation.text.encoding import EncodedEvent, EventEncoder
from cancellation.text.timeline import SPECIAL_TOKENS

WORDS = ("cancel", "stock", "sorry", "tomorrow", "hurry", "late", "changed", "mind")


@dataclass
class Scores:
    """As `cancellation.model.verdict_model.Scores`."""

    logits: np.ndarray
    factor_probabilities: np.ndarray


def word_tokenizer() -> Tokenizer:
    """A tokeniser of a few words; every other word is unknown."""
    vocabulary = {token: number for number, token in enumerate(("[PAD]", "[UNK]", "[CLS]", *SPECIAL_TOKENS, *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", *SPECIAL_TOKENS])
    return tokenizer


@dataclass
class WordModel:
    """Each known word in an event's text adds to `induced` and to a factor; so may a feature that is present."""

    weights: Mapping[str, float] = field(default_factory=lambda: {"cancel": 4.0, "stock": 2.0, "changed": -3.0})
    factor_words: Mapping[str, str] = field(
        default_factory=lambda: {"chat.asked_to_cancel": "cancel", "chat.out_of_stock": "stock"}
    )
    factor_features: Mapping[str, str] = field(default_factory=dict)
    bias: float = 0.0
    temperature: float = 1.0
    version: str = "words@1"
    max_tokens: int = 256
    calls: int = 0

    def __post_init__(self) -> None:
        self.encoder = EventEncoder(word_tokenizer(), max_tokens=self.max_tokens)
        self.spec = ModelSpec(
            name="words", variant="text", encoder="words", max_tokens=self.max_tokens, markets=tuple(MARKETS)
        )

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity(self.version, self.temperature, self.spec.markets)

    def score(self, events: Sequence[EncodedEvent]) -> Scores:
        self.calls += 1
        logits = np.zeros((len(events), 3), np.float32)
        factors = np.full((len(events), len(FACTORS)), 0.01, np.float32)
        names = feature_names()
        for row, event in enumerate(events):
            counts = {word: event.token_ids.count(self.encoder.tokenizer.token_to_id(word)) for word in WORDS}
            logits[row] = (self.bias + sum(w * counts[word] for word, w in self.weights.items()), 1.0, -1.0)
            for code, word in self.factor_words.items():
                factors[row, FACTORS.index(code)] = 0.95 if counts[word] else 0.02
            for code, name in self.factor_features.items():
                present = not np.isnan(event.features[names.index(name)])
                factors[row, FACTORS.index(code)] = 0.9 if present else 0.1
        return Scores(logits, factors)


def load_word_model(folder: Path, *, num_threads: int = 1, device: str = "cpu", dtype: str = "float16") -> WordModel:
    """As `load_verdict_model`, for jobs' tests: whatever the folder holds."""
    return WordModel()
