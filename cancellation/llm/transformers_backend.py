"""A model in this process: transformers for the numbers, llguidance for what may come next.

One prompt's keys and values are kept for the next one: as many tokens as the two begin with alike are not computed
again, unless the model attends to a window only and the prompt before was longer than that. Where the grammar leaves
one continuation only, as for tags, its tokens go through the model in one pass.
"""

from __future__ import annotations

import codecs
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llguidance
import llguidance.hf
import torch
from transformers import AutoTokenizer, DynamicCache

from cancellation.llm.backend import BackendError, Enough, Piece, SamplingSettings, Usage
from cancellation.llm.backends import LocalModel, LocalSettings, pin_local
from cancellation.llm.prompt import Prompt, chat_text
from cluster.models.causal_model import load_causal_model, max_positions, merge_adapter
from cluster.models.files import fetch_model
from cluster.models.listing import list_folder
from cluster.models.weight_files import check_adapter_files

_AROUND_REASONING = 100
"""Tokens of an answer besides its reasoning: tags, verdict and factors."""
_MAX_ALTERNATIVES = 64
"""Where a grammar allows more tokens than this, no verdict is being decided."""


class TransformersBackend:
    """A causal language model of Hugging Face's kind."""

    def __init__(self, settings: LocalSettings, model: LocalModel | None = None, *, cache_dir: str) -> None:
        """Load `model`; None: what the settings name now."""
        pinned = model or pin_local(settings)
        self.version = pinned.version
        self._settings = settings
        torch.set_num_threads(settings.num_threads)
        folder = fetch_model(pinned.base, cache_dir=cache_dir)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        if not self._tokenizer.chat_template:
            raise ValueError(f"model {settings.model}: expected a chat template beside its tokeniser, found none")
        dtype = getattr(torch, settings.dtype or ("float32" if settings.device == "cpu" else "bfloat16"))
        self._model: Any = load_causal_model(folder, dtype=dtype)
        if pinned.adapter:
            self._model = _merged(self._model, fetch_model(pinned.adapter, cache_dir=cache_dir), folder)
        self._model.to(settings.device).eval()
        self._grammar = llguidance.hf.from_tokenizer(self._tokenizer)
        self._ids: list[int] = []
        self._cache = DynamicCache(config=self._model.config)
        self._one_at_a_time = threading.Lock()

    def count_tokens(self, prompt: Prompt) -> int:
        """Count the tokens of a prompt."""
        return len(self.prompt_ids(prompt))

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Write a prompt as the model reads it."""
        return self._tokenizer(chat_text(self._tokenizer, prompt), add_special_tokens=False)["input_ids"]

    @torch.inference_mode()
    def stream(self, prompt: Prompt, sampling: SamplingSettings, enough: Enough) -> Iterator[Piece | Usage]:
        """See `Backend`; prompts wait for one another."""
        ids = self.prompt_ids(prompt)
        most = max_positions(self._model.config)
        if len(ids) + sampling.max_tokens > most:
            raise BackendError(
                f"prompt of {len(ids)} tokens and an answer of {sampling.max_tokens}: the model takes {most}; lower "
                "prompt.max_case_characters or the number of examples"
            )
        with self._one_at_a_time:
            yield from self._answer(ids, prompt, sampling, enough)

    def _answer(
        self, ids: Sequence[int], prompt: Prompt, sampling: SamplingSettings, enough: Enough
    ) -> Iterator[Piece | Usage]:
        started = time.monotonic()
        matcher = self._matcher(prompt, sampling)
        cached = self._keep_common(ids)
        logits = self._forward(ids[cached:])
        draw = torch.Generator().manual_seed(sampling.seed)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        written = 0
        while not matcher.is_stopped() and written < sampling.max_tokens and not enough():
            forced = matcher.compute_ff_tokens()
            alternatives = None
            if not forced:
                token, alternatives = self._draw(logits, matcher, sampling, draw)
                forced = [token]
            if not matcher.consume_tokens(forced):
                raise BackendError(f"grammar: {matcher.get_error() or 'refused its own token'}")
            written += len(forced)
            yield Piece(decoder.decode(self._grammar.decode_bytes(forced)), alternatives)
            if not matcher.is_stopped():
                logits = self._forward(forced)
        busy = self._settings.num_threads if self._settings.device == "cpu" else 1
        cost = (time.monotonic() - started) / 3600 * busy * self._settings.hour_usd
        yield Usage(len(ids), cached, written, cost)

    def _matcher(self, prompt: Prompt, sampling: SamplingSettings) -> llguidance.LLMatcher:
        lark = prompt.form.lark(max_reasoning_tokens=sampling.max_tokens - _AROUND_REASONING)
        matcher = llguidance.LLMatcher(self._grammar, llguidance.LLMatcher.grammar_from_lark(lark))
        if matcher.is_error():
            raise BackendError(f"grammar: {matcher.get_error()}")
        return matcher

    def _keep_common(self, ids: Sequence[int]) -> int:
        """Crop the cache to what the last prompt and this one begin with; at least one token is computed."""
        common = 0
        for old, new in zip(self._ids, ids[:-1], strict=False):
            if old != new:
                break
            common += 1
        if superfluous := len(self._ids) - common:
            try:
                self._cache.crop(-superfluous)
            except RuntimeError:  # layers of a window, or of a running state, have forgotten what was before
                self._forget()
                return 0
            del self._ids[common:]
        return common

    def _forget(self) -> None:
        self._ids, self._cache = [], DynamicCache(config=self._model.config)

    def _forward(self, ids: Sequence[int]) -> torch.Tensor:
        """Put tokens through the model behind those of the cache; the next token's logits, float32 (V,)."""
        tokens = torch.tensor([list(ids)], device=self._model.device)
        try:
            out = self._model(tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        except Exception:
            self._forget()  # half written, so of no use
            raise
        self._ids += ids
        return out.logits[0, -1].float().cpu()

    def _draw(
        self, logits: torch.Tensor, matcher: llguidance.LLMatcher, sampling: SamplingSettings, draw: torch.Generator
    ) -> tuple[int, dict[bytes, float] | None]:
        """Draw the next token; with few allowed, say how likely each was (at temperature 1)."""
        # One byte for each token, 0 where it is not allowed. llguidance.torch would compile a kernel for this line.
        barred = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8) == 0
        masked = logits[: len(barred)].masked_fill(barred[: len(logits)], -torch.inf)
        log_probabilities = torch.log_softmax(masked, 0)
        allowed = torch.isfinite(log_probabilities).nonzero()[:, 0].tolist()
        alternatives = None
        if len(allowed) <= _MAX_ALTERNATIVES:
            alternatives = {self._grammar.decode_bytes([one]): float(log_probabilities[one]) for one in allowed}
        if not sampling.temperature:
            return int(log_probabilities.argmax()), alternatives
        shares = torch.softmax(masked / sampling.temperature, 0)
        return int(torch.multinomial(shares, 1, generator=draw)), alternatives


def _merged(model: Any, adapter: Path, base: Path) -> Any:
    check_adapter_files(list_folder(adapter), list_folder(base))
    return merge_adapter(model, adapter, base.name)
