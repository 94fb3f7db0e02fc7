"""A model's tokeniser read straight from tokenizer.json.

`transformers.AutoTokenizer` imports torch, about four CPU seconds in every process that only wants
token ids; driver, tokenising tasks and engine actors of the scoring job are many such processes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"


class FastTokenizer:
    """The part of a transformers tokeniser that prompts need, under the same names."""

    def __init__(self, model_dir: Path) -> None:
        self.backend_tokenizer = Tokenizer.from_file(str(model_dir / TOKENIZER_FILE))
        # Older models name their special tokens in a file of its own; what the configuration says comes first.
        config = _read(model_dir / "special_tokens_map.json") | _read(model_dir / "tokenizer_config.json")
        self.bos_token_id = self._id_of(config.get("bos_token"))
        self.unk_token_id = self._id_of(config.get("unk_token"))

    def _id_of(self, token: str | dict | None) -> int | None:
        content = token.get("content") if isinstance(token, dict) else token
        return self.backend_tokenizer.token_to_id(content) if content else None

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        return self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        return [self.backend_tokenizer.id_to_token(index) for index in ids]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def has_fast_tokenizer(model_dir: Path) -> bool:
    """Tell whether the folder holds a tokenizer.json."""
    return (model_dir / TOKENIZER_FILE).exists()
