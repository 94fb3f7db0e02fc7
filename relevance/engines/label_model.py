"""The model that gives labels: which files, which prompt, and the fingerprint that names both."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.models.files import ModelFiles, fetch_model, resolve_model
from cluster.models.listing import list_model
from cluster.models.weight_files import check_adapter_files, check_model_files
from relevance.engines.interface import Engine
from relevance.engines.settings import EngineSettings
from relevance.prompting.fast_tokenizer import FastTokenizer, has_fast_tokenizer
from relevance.prompting.prompts import PROMPT_FILE, PromptEncoder, load_prompt_settings
from relevance.weights.origin import learnt_together, read_origin

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_POSITIONS = ("max_position_embeddings", "n_positions")
"""What a config.json calls the most tokens that a model takes; the second is GPT-2's."""


@dataclass(frozen=True)
class LabelModel:
    """Pinned model and adapter. Cheap to send to workers, which fetch the files on their own machine."""

    base: ModelFiles
    adapter: ModelFiles | None
    quantization: str
    cache_dir: str

    @property
    def version(self) -> str:
        """Registry name and version (or folder and digest), adapter, quantisation: `model_version` of a score."""
        adapter = f"+{self.adapter.version}" if self.adapter else ""
        return f"{self.base.version}{adapter}:{self.quantization}"

    @property
    def parts(self) -> list[ModelFiles]:
        """Base and adapter."""
        return [self.base, *([self.adapter] if self.adapter else [])]

    def fetch(self, *, weights: bool = True) -> tuple[Path, Path | None]:
        """Bring base and adapter to this machine; without `weights` only what the prompt needs."""
        base = fetch_model(self.base, cache_dir=self.cache_dir, weights=weights)
        adapter = fetch_model(self.adapter, cache_dir=self.cache_dir, weights=weights) if self.adapter else None
        return base, adapter

    def learnt_queries(self) -> frozenset[str] | None:
        """Digests of the queries that the weights have learnt from; None where they do not say."""
        return learnt_together(*self.fetch(weights=False))

    def check(self) -> None:
        """Refuse files that an engine would refuse, or load wrongly, from what can be told without loading them.

        Weights that lie elsewhere are not fetched for this: their names, lengths and headers are looked at there.

        Raises:
            ValueError: If something is missing, is not what it seems, or belongs to another base; the file is named.
        """
        base = list_model(self.base)
        check_model_files(base)
        if self.adapter is None:
            return
        check_adapter_files(list_model(self.adapter), base)
        if Path(self.base.source).is_dir():
            base_dir, adapter_dir = self.fetch()
            if adapter_dir and read_origin(adapter_dir).get("base_fingerprint"):
                from relevance.weights.loading import folder_fingerprint, require_base

                require_base(adapter_dir, folder_fingerprint(base_dir), base.name)

    def encoder(self) -> PromptEncoder:
        """Load the tokeniser and the prompt that the model (or its adapter) was trained on.

        Raises:
            ValueError: If a label is no single token, or `check_prompt` refuses.
        """
        base, adapter = self.fetch(weights=False)
        prompt_from = adapter if adapter and (adapter / PROMPT_FILE).exists() else base
        encoder = PromptEncoder(load_tokenizer(base), load_prompt_settings(prompt_from))
        check_prompt(encoder, base, self.base.version)
        return encoder


def check_prompt(encoder: PromptEncoder, model_dir: Path, version: str) -> None:
    """Compare what the encoder may write with what the model's config.json has room for, before hours of work.

    Raises:
        ValueError: If the longest prompt has more tokens than the model positions, or a token has no embedding.
    """
    path = model_dir / "config.json"
    config = json.loads(path.read_text("utf-8")) if path.exists() else {}
    config |= config.get("text_config") or {}
    positions = next((config[name] for name in _POSITIONS if config.get(name)), None)
    if positions and encoder.max_prompt_tokens >= positions:
        raise ValueError(
            f"model {version} has {positions} positions, a prompt may take {encoder.max_prompt_tokens} tokens: "
            f"lower the budgets in the model's {PROMPT_FILE}, or before training prompt.product_token_budget, "
            "prompt.query_token_budget and prompt.guidelines"
        )
    vocabulary, highest = config.get("vocab_size"), encoder.highest_token_id
    if vocabulary and highest >= vocabulary:
        raise ValueError(
            f"model {version} has embeddings of {vocabulary:,} tokens, its tokeniser may write number {highest:,}: lay "
            "the tokeniser beside it that it was trained with, or resize its embeddings"
        )


def load_tokenizer(model_dir: Path) -> FastTokenizer | PreTrainedTokenizerBase:
    """Load a model's tokeniser: from tokenizer.json, or by transformers where there is none."""
    if has_fast_tokenizer(model_dir):
        return FastTokenizer(model_dir)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir, trust_remote_code=False)


def open_label_model(
    name: str, adapter: str | None, *, quantization: str, cache_dir: str, registry_uri: str | None = None
) -> LabelModel:
    """Pin a model by name (see `cluster.models.files`).

    Raises:
        ValueError: If the model or the adapter is not found.
    """
    return LabelModel(
        base=resolve_model(name, registry_uri=registry_uri),
        adapter=resolve_model(adapter, registry_uri=registry_uri) if adapter else None,
        quantization=quantization,
        cache_dir=cache_dir,
    )


def fingerprint(model: LabelModel, encoder: PromptEncoder, settings: EngineSettings) -> str:
    """Name everything that decides a pair's label besides the pair; hex, 16 digits.

    Model and adapter are named by the digest of their files, tokeniser included; engines that round differently, by
    what they are told (`settings`, pinned).
    """
    parts = [model.base.digest, model.adapter.digest if model.adapter else None, model.quantization, encoder.digest]
    content = [*parts, settings.arithmetic(model.quantization)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def load_label_engine(settings: EngineSettings, model: LabelModel, label_ids: tuple[int, ...]) -> Engine:
    """Fetch the weights to this machine and start the engine that the settings name.

    Raises:
        ValueError: If model or adapter are refused, or the engine cannot run here.
    """
    from relevance.engines.loading import require_engine

    require_engine(settings)
    base, adapter = model.fetch()
    from transformers.utils import logging as transformers_logging

    from relevance.engines.loading import load_engine

    transformers_logging.disable_progress_bar()  # one per actor in the driver's log
    return load_engine(base, adapter_dir=adapter, label_ids=label_ids, settings=settings)
