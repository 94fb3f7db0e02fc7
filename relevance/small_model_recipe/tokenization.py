"""The small model's tokeniser: word pieces of text whose spelling has been folded.

A small model learns to match a query's tokens with a title's. Folding case, accents, plurals and a few
units before the pieces are cut makes equal things equal tokens, so that matching is all it has to learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from relevance.labels import LABEL_WORDS, label_token_ids
from relevance.prompting.prompts import PromptSettings, fixed_texts
from relevance.small_model_recipe.catalogue import CatalogueWriter

_FOLDINGS = (
    (r"(?<=\d)\s?(?:\"|''|”|inches\b|inch\b|in\b)", " inch "),
    (r"['’`]s?\b", ""),
    (r"&", " and "),
    (r"\bw/", "with "),
    (r" - |[|;()\[\]]", " , "),
    (r"[^\p{L}\p{N}\s.,:%/+]", " "),
    (r"(?<=[a-z](?:x|ch|sh|ss))es\b", ""),
    (r"(?<=[a-z]{2})ies?\b", "y"),
    (r"(?<=[a-z]{2}[a-hj-rtv-z])s\b", ""),
    (r"\bounce\b", "oz"),
    (r"\bpound\b", "lb"),
    (r"\b(?:pc|pcs)\b", "piece"),
)
"""Regular expressions and what takes their place, in this order, after lower-casing."""

_WORD = r"\n+\p{L}+:|\n+|\p{L}+|\d+|[^\s\p{L}\d]"
"""A heading with its line breaks is one piece: text of users has no line breaks, so it can never be one."""

_PROMPT_REPETITIONS = 2000


def train_small_tokenizer(
    texts: Iterable[str], *, vocab_size: int, prompt: PromptSettings | None = None
) -> PreTrainedTokenizerFast:
    """Train byte-level pieces on titles and queries; the prompt's own words become one token each.

    White space is dropped and runs of line breaks are kept, so the prompt's lines stay apart. `vocab_size`
    counts the 256 bytes and the three special tokens too.
    """
    tokenizer = Tokenizer(models.BPE())
    folds = [normalizers.Replace(Regex(pattern), by) for pattern, by in _FOLDINGS]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), *folds]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"),
            pre_tokenizers.Split(Regex(_WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_with_prompt(texts, fixed_texts(prompt or PromptSettings())), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=1024
    )
    label_token_ids(wrapped)
    return wrapped


def tokenizer_texts(public: Sequence[str], *, num_products: int = 12_000) -> Iterator[str]:
    """Public titles and queries, twice for their richer words, and generated ones."""
    yield from public
    yield from public
    writer = CatalogueWriter("tokeniser")
    for offered, query, _ in islice(writer.pairs({"exact": 0.5, "substitute": 0.5}, 2), num_products):
        yield offered.title
        yield query.text


def _with_prompt(texts: Iterable[str], prompt_texts: Iterable[str]) -> Iterator[str]:
    yield from texts
    for text in (*prompt_texts, *LABEL_WORDS):
        for _ in range(_PROMPT_REPETITIONS):
            yield text
