"""Several trainings as one model: the mean of their weights.

Trainings that go on from one start with other events, in another order, end in weights whose mean judges at least as
well as each, and costs what one costs (a "model soup": Wortsman et al., ICML 2022, arXiv:2203.05482).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer

from cancellation.model.fusion import FusionModel


def require_alike(first: tuple[FusionModel, Tokenizer], other: tuple[FusionModel, Tokenizer], *, what: str) -> None:
    """Refuse a model whose weights mean something else.

    Raises:
        ValueError: If tokeniser, description or shapes differ, naming `what`.
    """
    (model, tokenizer), (else_model, else_tokenizer) = first, other
    shapes, else_shapes = ({n: t.shape for n, t in one.state_dict().items()} for one in (model, else_model))
    differ = next((name for name in shapes if shapes[name] != else_shapes.get(name)), None)
    if tokenizer.to_str() != else_tokenizer.to_str():
        differ = "the tokeniser"
    elif model.spec.model_copy(update={"name": ""}) != else_model.spec.model_copy(update={"name": ""}):
        differ = "the description"
    if differ or len(shapes) != len(else_shapes):
        raise ValueError(
            f"{what}: expected a model that went on from the same start, found another {differ or 'shape'}"
        )


def average_models(models: Sequence[FusionModel]) -> FusionModel:
    """Give a model whose weights are the mean of some models', all of one start (`require_alike`)."""
    averaged = copy.deepcopy(models[0])
    states = [model.state_dict() for model in models]
    mean = {
        name: torch.stack([state[name].float() for state in states]).mean(dim=0).to(weight.dtype)
        for name, weight in states[0].items()
    }
    averaged.load_state_dict(mean)
    return averaged.eval()
