"""From the hidden state behind a prompt to the four labels.

Shapes: n pairs, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PretrainedConfig, PreTrainedModel

_CHUNK_LOGITS = 2**24
"""Logits held at once: 64 MiB in float32, whatever the vocabulary."""


def finish_logits(logits: torch.Tensor, config: PretrainedConfig) -> torch.Tensor:
    """Scale and cap what the output layer gives as some architectures do: Cohere, Granite, Gemma 2."""
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    logits = logits * scale if scale != 1.0 else logits
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


class LabelHead:
    """The model's output layer, of which four rows are multiplied (and the rest once more for the label mass)."""

    def __init__(self, model: PreTrainedModel, label_ids: Sequence[int], *, with_mass: bool) -> None:
        output = model.get_output_embeddings()
        self._config = model.config.get_text_config()
        self._weight_VD, self._bias_V = output.weight, getattr(output, "bias", None)
        self._label_ids = torch.tensor(label_ids, device=output.weight.device)
        self._rows_4D = output.weight[self._label_ids].float()
        self.with_mass = with_mass

    def __call__(self, hidden_nD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give float32 log-probabilities among the labels, (n, 4), and label mass, (n,), NaN without mass."""
        logits_n4 = hidden_nD.float() @ self._rows_4D.t()
        if self._bias_V is not None:
            logits_n4 = logits_n4 + self._bias_V[self._label_ids].float()
        logits_n4 = finish_logits(logits_n4, self._config)
        totals = self._log_totals(hidden_nD) if self.with_mass else None
        return _normalize(logits_n4, totals)

    def from_logits(self, logits_nV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same from the model's own logits, for architectures whose output this class cannot repeat."""
        logits_nV = logits_nV.float()
        totals = logits_nV.logsumexp(-1) if self.with_mass else None
        return _normalize(logits_nV[:, self._label_ids], totals)

    def _log_totals(self, hidden_nD: torch.Tensor) -> torch.Tensor:
        """Log-sum-exp over the vocabulary, float32 (n,)."""
        weight = self._weight_VD
        totals = []
        for chunk in hidden_nD.to(weight.dtype).split(max(1, _CHUNK_LOGITS // weight.shape[0])):
            logits = torch.nn.functional.linear(chunk, weight, self._bias_V)
            totals.append(finish_logits(logits.float(), self._config).logsumexp(-1))
        return torch.cat(totals)


def _normalize(logits_n4: torch.Tensor, totals_n: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    among_labels = logits_n4.logsumexp(-1)
    logprobs = logits_n4 - among_labels[:, None]
    if totals_n is None:
        return logprobs, torch.full_like(among_labels, torch.nan)
    # Totals in 16 bits can round below the labels' own sum.
    return logprobs, (among_labels - totals_n).exp().clamp(max=1.0)
