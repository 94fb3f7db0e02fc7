"""A pair becomes token ids in three segments: guidelines, product, query.

The product stands before the query because pairs are grouped by product: its keys and values are
computed once per product, and only the query's tokens are paid per pair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from cluster.settings import Settings
from relevance.labels import LABEL_WORDS, LABELS, label_token_ids
from relevance.prompting.guidelines import Guidelines, load_guidelines

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_FILE = "prompt.json"
"""Lies beside a model's weights and says which prompt it was trained on."""

_TASK = "Judge how well a product fits a shopping query.\n"
_PRODUCT_FIELDS = {
    "title": "\n\nProduct: ",
    "brand": "\nBrand: ",
    "category": "\nCategory: ",
    "attributes": "\nAttributes: ",
    "description": "\nDescription: ",
}
_QUERY = "\n\nQuery: "
_ANSWER = "\nLabel:"
_WHITE_SPACE = r"[\t\n\f\r]\s*| \s+"
r"""What `\s+` matches but for the single blanks, which stay: a seventh of the time on ordinary texts."""
_KNOWN_QUERIES = 200_000
"""Queries whose tokens an encoder keeps, about 50 MB: a day's frequent queries come again in every shard, and
tokenising is most of what the CPUs do per pair."""


class PromptSettings(Settings):
    """The prompt's shape. Part of the model: training writes it beside the weights, scoring reads it there."""

    guidelines: Literal["brief", "full"] = "full"
    """`full`: definitions, decision tree and rules; `brief`: the four definitions, for small models."""

    product_token_budget: int = Field(default=250, ge=8)
    """Tokens; a longer product is cut at its end (title first, then brand, category, attributes, description)."""

    query_token_budget: int = Field(default=192, ge=4)
    """Tokens; a longer query is never cut, its row gets an error. It costs nothing until a query needs it, and one in
    Japanese needs several tokens a letter of a model that was taught English (139 for one of 275 real queries)."""

    label_words: tuple[str, str, str, str] = LABEL_WORDS
    """What the model says for exact, substitute, complement, irrelevant: one token each."""


def load_prompt_settings(model_dir: Path) -> PromptSettings:
    """Read the prompt that a model was trained on, or the default where it does not say."""
    path = model_dir / PROMPT_FILE
    return PromptSettings.model_validate_json(path.read_text("utf-8")) if path.exists() else PromptSettings()


def save_prompt_settings(prompt: PromptSettings, model_dir: Path) -> None:
    """Write the prompt beside the weights."""
    (model_dir / PROMPT_FILE).write_text(prompt.model_dump_json(indent=2) + "\n", encoding="utf-8")


def fixed_texts(prompt: PromptSettings, guidelines: Guidelines | None = None) -> list[str]:
    """List what every prompt says besides the pair: the guidelines and the headings. For training a tokeniser."""
    return [_guidelines_text(prompt, guidelines or load_guidelines()), *_PRODUCT_FIELDS.values(), _QUERY, _ANSWER]


def _guidelines_text(prompt: PromptSettings, guidelines: Guidelines) -> str:
    return _TASK + (guidelines.brief() if prompt.guidelines == "brief" else guidelines.full())


def product_texts(products: pa.Table) -> pa.Array:
    """Render the product segment of each row of a pairs table, shape (n,), string.

    White space is folded to single blanks, so a title cannot open a line of the prompt's own.
    Null and blank fields are left out; columns other than `title` may be missing.
    """
    parts = []
    for column, heading in _PRODUCT_FIELDS.items():
        if column in products.column_names:
            text = _fold_white_space(products[column])
            heading_array = pc.if_else(pc.greater(pc.binary_length(text), 0), heading, None)
            parts.append(pc.binary_join_element_wise(heading_array, text, "", null_handling="emit_null"))
    # Arrow drops a row in which every part is null, hence the first part that never is.
    joined = pc.binary_join_element_wise("", *parts, "", null_handling="skip")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def query_texts(queries: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Render the query segment without the closing answer line, shape (n,), string."""
    joined = pc.binary_join_element_wise(_QUERY, _fold_white_space(queries), "")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def _fold_white_space(text: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(text.cast(pa.string()), _WHITE_SPACE, " "))


class PromptEncoder:
    """Turn texts into token ids for one tokeniser, one prompt and one version of the guidelines."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptSettings,
        guidelines: Guidelines | None = None,
    ) -> None:
        guidelines = guidelines or load_guidelines()
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.label_ids = label_token_ids(tokenizer, prompt.label_words)
        # A title that spells "<|eot_id|>" must stay text and never become the control token.
        tokenizer.split_special_tokens = True
        if backend := getattr(tokenizer, "backend_tokenizer", None):
            backend.encode_special_tokens = True
            backend.no_truncation()
            backend.no_padding()
        self.guidelines_text = _guidelines_text(prompt, guidelines)
        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        self.guidelines_ids: list[int] = start + self._encode([self.guidelines_text])[0]
        self._answer_ids = self._encode([_ANSWER])[0]
        self._known_queries: dict[str, list[int] | None] = {}
        self._query_heading_tokens = len(self._encode([_QUERY.rstrip()])[0])

    @property
    def digest(self) -> str:
        """Hex digest of everything that shapes the token ids besides the pair and the tokeniser."""
        content = [
            self.guidelines_text,
            list(_PRODUCT_FIELDS.items()),
            _QUERY,
            _ANSWER,
            self.prompt.model_dump(),
            LABELS,
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that this encoder makes."""
        query = self._query_heading_tokens + self.prompt.query_token_budget + len(self._answer_ids)
        return len(self.guidelines_ids) + self.prompt.product_token_budget + query

    @property
    def highest_token_id(self) -> int:
        """The highest number that a prompt may hold: of what is not special, of the labels and of the first token."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return max([*self.label_ids, *self.guidelines_ids])
        special = {number for number, token in backend.get_added_tokens_decoder().items() if token.special}
        written = set(backend.get_vocab(with_added_tokens=True).values()) - special
        return max([*written, *self.label_ids, *self.guidelines_ids])

    def encode_products(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode product segments (see `product_texts`), each cut to its budget."""
        return [ids[: self.prompt.product_token_budget] for ids in self._encode(texts)]

    def encode_queries(self, texts: Sequence[str]) -> list[list[int] | None]:
        """Encode query segments (see `query_texts`) with the answer line; None where over the budget."""
        known = self._known_queries
        if len(known) + len(texts) > _KNOWN_QUERIES:
            known.clear()
        new = [text for text in dict.fromkeys(texts) if text not in known]
        limit = self._query_heading_tokens + self.prompt.query_token_budget
        for text, ids in zip(new, self._encode(new), strict=True):
            known[text] = ids + self._answer_ids if len(ids) <= limit else None
        return [known[text] for text in texts]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
