"""The embedded engine: plain transformers, with everything that pairs share computed once.

The guidelines' keys and values are kept for the engine's life. A product is one row: its tokens,
then all its queries under a block mask with shared positions (see `prefix_rows`).

Shapes: B rows, L tokens per row, S tokens of shared prefix, n pairs, D hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from cluster.models.causal_model import max_positions
from relevance.engines.interface import LabelScores, TokenBatch
from relevance.engines.label_head import LabelHead
from relevance.engines.prefix_rows import (
    PackedRows,
    Row,
    pack_rows,
    plan_forwards,
    plan_rows,
    prompt_lengths,
    query_rows,
    write_prompt,
)
from relevance.engines.settings import EngineSettings
from relevance.engines.sharing import PROBE_TOLERANCE, REFUSALS, attention_window, probe_batch
from relevance.weights.activation_memory import exact_products
from relevance.weights.loading import load_model

log = logging.getLogger(__name__)

_FORWARD_TOKENS = {"cpu": 1536, "cuda": 16384}
"""On a CPU more tokens leave the cache; on a large GPU fewer leave it idle."""
_CROWDED_ROW_TOKENS = 256
"""Shorter rows than usual where the product is in the prefix already: a new row then costs no product."""
_UNSHARED = "this architecture does not share prefixes, every prompt is computed whole"

Prefix = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, (1, heads, S, head size)."""


class _SharedPrefixLayer(DynamicLayer):
    """One layer's prefix, lent to every row of a forward; the rows' own keys are not kept."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = key_states.shape[0]
        keys = torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2)
        values = torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2)
        return keys, values


class TransformersEngine:
    """Label pairs with a Hugging Face causal model on the CPU or one GPU."""

    def __init__(
        self,
        model_dir: Path,
        *,
        adapter_dir: Path | None,
        label_ids: tuple[int, int, int, int],
        settings: EngineSettings,
    ) -> None:
        if settings.num_threads:
            torch.set_num_threads(settings.num_threads)
        self._device = _pick_device(settings.device)
        model = load_model(
            model_dir,
            adapter_dir=adapter_dir,
            device=self._device,
            dtype=_pick_dtype(settings.dtype, self._device),
            quantization=settings.quantization,
        )
        self._model: PreTrainedModel = model
        self._head = LabelHead(model, label_ids, with_mass=settings.label_mass)
        self._max_forward_tokens = settings.max_forward_tokens or _FORWARD_TOKENS[self._device.type]
        self._guidelines: tuple[tuple[int, ...], Prefix] = ((), [])
        self._max_prompt_tokens = max_positions(model.config)
        self._window, self._window_warned = attention_window(model.config), False
        self._shares = self._sharing_is_exact()

    def label_logprobs(self, batch: TokenBatch) -> LabelScores:
        """Score the pairs; see `Engine`.

        Raises:
            ValueError: If a query has no token or a prompt is longer than the model takes.
        """
        lengths = prompt_lengths(batch, max_tokens=self._max_prompt_tokens)
        if not len(batch):
            return LabelScores(np.empty((0, 4), np.float32), np.empty(0, np.float32), 0, 0)
        scores = _Scores(len(batch), prompt_tokens=int(lengths.sum()))
        with torch.no_grad():
            scores.shared_prefix = self._shares and self._within_window(int(lengths.max()))
            if scores.shared_prefix:
                self._score_shared(batch, scores)
            else:
                self._score_unshared(batch, scores)
        return scores.result(with_mass=self._head.with_mass)

    def _within_window(self, longest: int) -> bool:
        """Say whether every token of such a prompt sees every earlier one, as the block mask assumes."""
        if longest > self._window and not self._window_warned:
            log.warning("prompts of %d tokens pass the attention window of %d: computed whole", longest, self._window)
            self._window_warned = True
        return longest <= self._window

    def _score_shared(self, batch: TokenBatch, scores: _Scores) -> None:
        prefix = self._guidelines_prefix(batch.guidelines, scores)
        rows, crowded = plan_rows(batch, self._max_forward_tokens)
        for forward in plan_forwards(rows, self._max_forward_tokens):
            self._score_rows(pack_rows(batch, forward), prefix, scores)
        for start, stop in crowded:
            product = batch.products[batch.product_of_pair[start]]
            longer = self._extend(prefix, product, scores)
            limit = min(self._max_forward_tokens, _CROWDED_ROW_TOKENS)
            rows = query_rows(batch, start, stop, product_tokens=0, max_row_tokens=limit)
            for forward in plan_forwards(rows, self._max_forward_tokens):
                self._score_rows(pack_rows(batch, forward, with_product=False), longer, scores)

    def _guidelines_prefix(self, guidelines: Sequence[int], scores: _Scores) -> Prefix:
        ids = tuple(guidelines)
        if self._guidelines[0] != ids:
            self._guidelines = ids, self._extend([], ids, scores)
        return self._guidelines[1]

    def _extend(self, prefix: Prefix, token_ids: Sequence[int], scores: _Scores) -> Prefix:
        """Compute the keys and values of tokens behind a prefix, and join them to it."""
        if not len(token_ids):
            return prefix
        ids = np.asarray(token_ids, np.int64)[None]
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(prefix):
            cache.update(keys, values, layer)
        self._forward(ids, np.arange(ids.shape[1])[None], np.zeros_like(ids), prefix, cache)
        scores.computed_tokens += ids.size
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _score_rows(self, packed: PackedRows, prefix: Prefix, scores: _Scores) -> None:
        layers = [_SharedPrefixLayer(keys, values) for keys, values in prefix]
        cache = Cache(layers=layers) if layers else DynamicCache()
        hidden_BLD = self._forward(packed.token_ids, packed.positions, packed.segments, prefix, cache)
        places = (torch.from_numpy(packed.label_rows), torch.from_numpy(packed.label_columns))
        scores.add(packed.pair_indexes, *self._head(hidden_BLD[places]))
        scores.computed_tokens += packed.token_ids.size

    def _forward(
        self, ids_BL: np.ndarray, positions_BL: np.ndarray, segments_BL: np.ndarray, prefix: Prefix, cache: Cache
    ) -> torch.Tensor:
        prefix_tokens = prefix[0][0].shape[-2] if prefix else 0
        segments = torch.from_numpy(segments_BL).to(self._device)
        outputs = self._model.base_model(
            input_ids=torch.from_numpy(ids_BL).to(self._device),
            position_ids=torch.from_numpy(positions_BL + prefix_tokens).to(self._device),
            attention_mask=_block_mask(segments, prefix_tokens, self._model.dtype),
            past_key_values=cache,
            use_cache=True,
        )
        return outputs.last_hidden_state

    def _score_unshared(self, batch: TokenBatch, scores: _Scores) -> None:
        """Write every prompt out: padded batches, sorted by length, through the model's own output layer."""
        rows = [Row(pair, pair + 1, int(length)) for pair, length in enumerate(prompt_lengths(batch))]
        for forward in plan_forwards(rows, self._max_forward_tokens):
            pairs = np.array([row.start for row in forward])
            ids_BL = np.zeros((len(forward), forward[0].num_tokens), np.int64)
            for number, row in enumerate(forward):
                ids_BL[number, : row.num_tokens] = write_prompt(batch, row.start)
            last_B = torch.tensor([row.num_tokens - 1 for row in forward], device=self._device)
            kept, places = last_B.unique(return_inverse=True)
            ids = torch.from_numpy(ids_BL).to(self._device)
            mask = (torch.arange(ids.shape[1], device=self._device) <= last_B[:, None]).long()
            logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits
            scores.add(pairs, *self._head.from_logits(logits[torch.arange(len(forward)), places]))
            scores.computed_tokens += ids_BL.size

    def _sharing_is_exact(self) -> bool:
        """Compare shared with unshared scores on a few random tokens.

        Attention over a window, recurrent layers or positions of another kind break the block mask
        without an error: only the result shows it. Of 8-bit layers the products are exact for this: their rounding
        would move probabilities by more than a small model's masks do.
        """
        batch = probe_batch(self._model.config)
        plain, shared = _Scores(len(batch), 0), _Scores(len(batch), 0)
        with torch.no_grad(), exact_products(self._model):
            try:
                self._score_unshared(batch, plain)
            except REFUSALS as error:
                kind = self._model.config.model_type
                raise ValueError(
                    f"architecture {kind} does not run with its linear layers as they are loaded here "
                    f"({type(error).__name__}: {error}): set engine.quantization=none, or choose another base"
                ) from error
            try:
                self._score_shared(batch, shared)
            except REFUSALS as error:
                log.warning("%s: %s", _UNSHARED, error)
                return False
        difference = np.abs(np.exp(plain.result().logprobs) - np.exp(shared.result().logprobs)).max()
        if not difference <= PROBE_TOLERANCE[self._model.dtype]:
            log.warning("%s: probabilities differ by %.4f", _UNSHARED, difference)
            return False
        self._guidelines = (), []
        return True


class _Scores:
    """Scores as they come, kept on the device until all are there: reading them earlier would stall a GPU."""

    def __init__(self, num_pairs: int, prompt_tokens: int) -> None:
        self._num_pairs = num_pairs
        self._prompt_tokens = prompt_tokens
        self._pairs: list[np.ndarray] = []
        self._logprobs: list[torch.Tensor] = []
        self._mass: list[torch.Tensor] = []
        self.computed_tokens = 0
        self.shared_prefix = True

    def add(self, pairs: np.ndarray, logprobs: torch.Tensor, mass: torch.Tensor) -> None:
        self._pairs.append(pairs)
        self._logprobs.append(logprobs)
        self._mass.append(mass)

    def result(self, *, with_mass: bool = True) -> LabelScores:
        logprobs, mass = np.empty((self._num_pairs, 4), np.float32), np.empty(self._num_pairs, np.float32)
        pairs = np.concatenate(self._pairs)
        logprobs[pairs] = torch.cat(self._logprobs).cpu().numpy()
        mass[pairs] = torch.cat(self._mass).cpu().numpy()
        mass_or_none, tokens = mass if with_mass else None, (self._prompt_tokens, self.computed_tokens)
        return LabelScores(logprobs, mass_or_none, *tokens, shared_prefix=self.shared_prefix)


def _block_mask(segments_BL: torch.Tensor, prefix_tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """Build the additive mask (B, 1, L, S + L): the prefix, the own product, the own query, nothing later."""
    rows, length = segments_BL.shape
    same = segments_BL[:, :, None] == segments_BL[:, None, :]
    product = (segments_BL == 0)[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments_BL.device).tril()
    mask = torch.zeros(rows, 1, length, prefix_tokens + length, dtype=dtype, device=segments_BL.device)
    mask[:, 0, :, prefix_tokens:].masked_fill_(~((same | product) & causal), torch.finfo(dtype).min)
    return mask


def _pick_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name}: this process sees no GPU: set scoring.device=cpu")
    return torch.device(name)


def _pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return getattr(torch, name)
