"""A start for small decoders that already matches words between title and query.

Attention that finds a token's other places, and reads whether it found one, is the last thing that a small
transformer learns: from random weights 50,000 pairs were not enough to see it begin. So the circuit is written
into a few heads and a few hidden dimensions, everything else starts at random, and training refines all of it.

    layer 0   every token learns whether it stands behind the product's and the query's heading
    layer 1   a query's token looks for its equal in the product, at the start of the prompt where there is none
    layer 2   the label's heading averages over the query what was found, and reads the query's last token
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LlamaForCausalLM

# Hidden dimensions of the circuit. The first four are set in the embeddings, the others written by heads.
_ALWAYS, _QUERY_HEADING, _PRODUCT_HEADING, _START, _LABEL_HEADING = range(5)
_IN_QUERY, _IN_PRODUCT, _FOUND, _SHARE_FOUND = range(5, 9)
_NUM_OWN = 9
_EMBEDDING_SCALE = 0.1
_MARK = 8.0
_FLAG = 4.0
_ANSWER = 3.0


@dataclass(frozen=True)
class PromptMarks:
    """Token ids at the prompt's joints."""

    start: int
    product_heading: int
    query_heading: int
    label_heading: int
    labels: tuple[int, ...]


@torch.no_grad()
def write_matching_circuit(
    model: LlamaForCausalLM, marks: PromptMarks, *, seed: int = 0, meanings: np.ndarray | None = None
) -> None:
    """Overwrite the model's weights in place; it needs three layers and four heads.

    With `meanings` (pieces, width), of mean square 1 and NaN where a piece has none, so many hidden dimensions start
    from them. One head then looks for what is equal, and one for what is near in meaning.
    """
    config = model.config
    if config.num_hidden_layers < 3 or config.num_attention_heads < 4:
        raise ValueError(
            f"the matching circuit needs 3 layers and 4 heads, the model has {config.num_hidden_layers} and "
            f"{config.num_attention_heads}: use a larger shape"
        )
    torch.manual_seed(seed)
    _scale_down_writes(model)
    embedding = model.get_input_embeddings().weight
    embedding.normal_(std=_EMBEDDING_SCALE)
    spelt = meant = list(range(_NUM_OWN, config.hidden_size))
    if meanings is not None:
        meant, spelt = spelt[: meanings.shape[1]], spelt[meanings.shape[1] :]
        known = torch.from_numpy(meanings).to(embedding) * _EMBEDDING_SCALE
        embedding[:, meant] = torch.where(known.isnan(), embedding[:, meant], known)
    embedding[:, :_NUM_OWN] = 0
    embedding[:, _ALWAYS] = _EMBEDDING_SCALE
    for token, dimension in (
        (marks.query_heading, _QUERY_HEADING),
        (marks.product_heading, _PRODUCT_HEADING),
        (marks.start, _START),
        (marks.label_heading, _LABEL_HEADING),
    ):
        embedding[token, dimension] = _MARK * _EMBEDDING_SCALE
    # Behind the label's heading comes a label, from the first step on: otherwise the first thousand steps go
    # into learning that, and wreck the circuit on the way.
    embedding[list(marks.labels), _LABEL_HEADING] = _ANSWER
    first, second, third = (_Heads(layer.self_attn, config) for layer in model.model.layers[:3])
    first.look_at(0, {_ALWAYS: 4.0}, {_QUERY_HEADING: 4.0}, reads={_QUERY_HEADING: 1 / 7}, writes=_IN_QUERY)
    first.look_at(1, {_ALWAYS: 4.0}, {_PRODUCT_HEADING: 4.0}, reads={_PRODUCT_HEADING: 1 / 7}, writes=_IN_PRODUCT)
    first.look_back(2, {_ALWAYS: 6.0}, {_ALWAYS: 6.0})
    is_product = {_IN_PRODUCT: 0.27, _IN_QUERY: -0.27}
    for head, likeness in ((0, spelt), (1, meant)):
        second.look_at(
            head,
            {_ALWAYS: 4.0},
            {_IN_PRODUCT: 6.0, _IN_QUERY: -6.0, _START: 5.5},
            reads=is_product,
            writes=_FOUND,
        )
        second.look_for_alike(head, 1.7, likeness)
    third.look_at(0, {_LABEL_HEADING: 2.0}, {_IN_QUERY: 2.0}, reads={_FOUND: 0.4}, writes=_SHARE_FOUND)
    third.look_back(1, {_LABEL_HEADING: 2.6}, {_ALWAYS: 2.6})


def _scale_down_writes(model: LlamaForCausalLM) -> None:
    """Keep what random heads and networks write small beside the embeddings, and off the circuit's dimensions."""
    for layer in model.model.layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight *= 0.1
            projection.weight[:_NUM_OWN] = 0


class _Heads:
    """The heads of one attention layer, addressed by what they do."""

    def __init__(self, attention: torch.nn.Module, config: object) -> None:
        self._attention = attention
        self._width = config.hidden_size // config.num_attention_heads
        self._half = self._width // 2
        base = config.rope_parameters["rope_theta"]
        turns = [base ** (-i / self._half) for i in range(self._half)]
        self._still = [i for i, turn in enumerate(turns) if turn < 1 / 300]
        self._turning = [(i, turn) for i, turn in enumerate(turns) if turn > 0.15]

    def look_at(
        self, head: int, asks: dict[int, float], answers: dict[int, float], *, reads: dict[int, float], writes: int
    ) -> None:
        """Attend where `answers` dimensions are high, whatever the distance, and pass one number on."""
        start = head * self._width
        own = slice(start, start + self._width)
        row = start + self._still[-1]
        attention = self._attention
        for projection, weights in ((attention.q_proj, asks), (attention.k_proj, answers)):
            projection.weight[own] *= 0.1
            for dimension, weight in weights.items():
                projection.weight[row, dimension] += weight
        attention.v_proj.weight[start] = 0
        for dimension, weight in reads.items():
            attention.v_proj.weight[start, dimension] = weight
        attention.o_proj.weight[:, start] = 0
        attention.o_proj.weight[writes, start] = _FLAG * _EMBEDDING_SCALE

    def look_for_alike(self, head: int, sharpness: float, dimensions: list[int]) -> None:
        """Add to a head's score the tokens' likeness in some dimensions: equal matrices, in pairs that hardly turn."""
        pairs = self._still[:-1]
        rows = torch.tensor([*pairs, *(i + self._half for i in pairs)]) + head * self._width
        shared = torch.zeros(len(rows), self._attention.q_proj.in_features)
        shared[:, dimensions] = torch.linalg.qr(torch.randn(len(dimensions), len(rows)))[0].T * sharpness
        self._attention.q_proj.weight[rows] = shared
        self._attention.k_proj.weight[rows] = shared

    def look_back(self, head: int, asks: dict[int, float], answers: dict[int, float]) -> None:
        """Attend to the token before: pairs that turn fast agree best at a distance of one."""
        start = head * self._width
        own = slice(start, start + self._width)
        attention = self._attention
        attention.q_proj.weight[own] *= 0.1
        attention.k_proj.weight[own] *= 0.1
        for pair, turn in self._turning:
            angle = torch.tensor(turn)
            for dimension, weight in asks.items():
                attention.q_proj.weight[start + pair, dimension] += weight
            for dimension, weight in answers.items():
                attention.k_proj.weight[start + pair, dimension] += weight * angle.cos()
                attention.k_proj.weight[start + pair + self._half, dimension] += weight * angle.sin()
        attention.o_proj.weight[:, own] *= 3


def prompt_marks(
    guidelines: Sequence[int], product: Sequence[int], query: Sequence[int], labels: Sequence[int]
) -> PromptMarks:
    """Find the joints in the tokens of any prompt: each heading is one token in the small model's tokeniser."""
    return PromptMarks(guidelines[0], product[0], query[0], query[-1], tuple(labels))
