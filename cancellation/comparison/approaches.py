"""The approaches that are compared: one entry each, from the rigid rules to the fusion network and its ablations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from cancellation.comparison.figures import Judgements, Truth
from cancellation.comparison.learners import TreeLearner, TreeSettings
from cancellation.decision.policy import Policy
from cancellation.decision.rules import judge as judge_by_rules
from cancellation.decision.verdicts import market_probabilities, verdict_thresholds
from cancellation.events.event import Event
from cancellation.events.examples import Example
from cancellation.features.vector import feature_table
from cluster.statistics.temperature import class_probabilities

if TYPE_CHECKING:
    from cancellation.model.verdict_model import VerdictModel
    from cancellation.training.run import TrainingSettings

Kind = Literal["rules", "trees", "stacked", "network", "shipped", "llm"]


@dataclass(frozen=True)
class Approach:
    """One row of the comparison. `changes` are what its network, or prompt, has otherwise than the base settings."""

    name: str
    kind: Kind
    meaning: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    """Starts from the pre-trained encoder, where one is given."""


APPROACHES = (
    Approach("rules", "rules", "keywords and thresholds, v1"),
    Approach("trees", "trees", "gradient-boosted trees on the 68 features"),
    Approach("text", "network", "the text encoder alone", {"fusion": {"variant": "text"}}),
    Approach("trees+text", "stacked", "trees on the features and the text model's logits"),
    Approach("concat", "network", "text and features side by side", {"fusion": {"variant": "concat"}}),
    Approach("gated", "network", "a gate between text and features", {"fusion": {"variant": "gated"}}),
    Approach("attention", "network", "cross-attention of features to text", {"fusion": {"variant": "attention"}}),
    Approach(
        "attention, encoder not pre-trained",
        "network",
        "the same from a random encoder",
        {"fusion": {"variant": "attention"}},
        pretrained=False,
    ),
    Approach(
        "attention, no smoothing",
        "network",
        "the same with hard labels",
        {"fusion": {"variant": "attention"}, "loop": {"label_smoothing": 0.0}},
    ),
    Approach(
        "attention, no market",
        "network",
        "the same without market embedding",
        {"fusion": {"variant": "attention", "market_embedding": False}},
    ),
    Approach("shipped", "shipped", "the model that ships, as it is: trained longer than the rows above"),
    Approach("LLM zero-shot", "llm", "a language model with the policy alone"),
    Approach("LLM few-shot", "llm", "the same beside the nearest training events", {"few_shot": True}),
    Approach(
        "LLM few-shot, reflection",
        "llm",
        "the same, asked once more with its answer in sight",
        {"few_shot": True, "reflect": True},
    ),
    Approach("LLM fine-tuned", "llm", "a language model with a LoRA adapter, the policy alone", {"adapter": True}),
)
NAMES = tuple(approach.name for approach in APPROACHES)
BY_DEFAULT = tuple(approach.name for approach in APPROACHES if approach.kind != "llm")
"""Rows that need no language model: each event costs one of those seconds of a core, or money."""
TEXT = next(approach for approach in APPROACHES if approach.name == "text")


class Judge(Protocol):
    """Anything that judges events."""

    def judge(self, events: Sequence[Event]) -> Judgements:
        """Judge events, in their order."""
        ...


class RulesJudge:
    """Rules v1; their score is taken as the probability of induced."""

    def judge(self, events: Sequence[Event]) -> Judgements:
        """Judge events, in their order."""
        verdicts = [judge_by_rules(event) for event in events]
        scores = np.array([verdict.score for verdict in verdicts])
        probabilities = np.stack([scores, 1.0 - scores, np.zeros(len(scores))], axis=1)
        truth = Truth.of(["induced"] * len(verdicts), [verdict.factors for verdict in verdicts], [""] * len(verdicts))
        return Judgements(probabilities, truth.factors.astype(float))


@dataclass(frozen=True)
class Inputs:
    """What trees learn from: features, or features and logits, and the truth beside them."""

    table: np.ndarray
    truth: Truth
    """Its weights are what each event counts in training."""


def collect_inputs(examples: Iterable[Example], text: VerdictModel | None = None) -> Inputs:
    """Turn examples into trees' inputs, a thousand events in memory at a time.

    With a text model its logits stand beside the features: the examples must not be among those it learnt from.
    """
    parts: list[np.ndarray] = []
    kept: list[tuple[str, tuple[str, ...] | None, str, float]] = []
    remaining = iter(examples)
    while batch := list(islice(remaining, 1000)):
        parts.append(tree_inputs([example.event for example in batch], text))
        kept += [(example.label, example.factors, example.event.market, example.counts) for example in batch]
    labels, factors, markets, counts = zip(*kept, strict=True)
    return Inputs(np.concatenate(parts), Truth.of(labels, factors, markets, np.array(counts)))


def tree_inputs(events: Sequence[Event], text: VerdictModel | None) -> np.ndarray:
    """The 68 features, and a text model's logits where there is one; (n, 68) or (n, 71)."""
    features = feature_table(events)
    if text is None:
        return features
    scores = text.score([text.encoder.encode(event) for event in events])
    return np.concatenate([features, scores.logits], axis=1)


class TreesJudge:
    """Trees on the features, alone or with a text model's logits beside them."""

    def __init__(
        self, settings: TreeSettings, inputs: Inputs, text: VerdictModel | None = None, *, policy: Policy | None = None
    ) -> None:
        """Learn; `policy` as in `NetworkJudge`."""
        self._text, self._policy = text, policy
        truth = inputs.truth
        targets = (truth.labels, truth.factors)
        self._trees = TreeLearner(settings).fit(
            inputs.table, *targets, known=truth.factors_known, weights=truth.weights
        )

    def judge(self, events: Sequence[Event]) -> Judgements:
        """Judge events, in their order."""
        inputs = tree_inputs(events, self._text)
        probabilities = market_probabilities(self._trees.probabilities(inputs), events, self._policy)
        return Judgements(probabilities, self._trees.factor_probabilities(inputs))


class NetworkJudge:
    """An exported network."""

    def __init__(self, model: VerdictModel, policy: Policy | None = None) -> None:
        """Take a model, and the policy that says which classes a market has and when its own model accuses; None: all
        three everywhere, and whenever that is the likeliest."""
        self.model, self._policy = model, policy

    def judge(self, events: Sequence[Event]) -> Judgements:
        """Judge events, in their order."""
        scores = self.model.score([self.model.encoder.encode(event) for event in events])
        probabilities = class_probabilities(scores.logits, self.model.temperature)
        return Judgements(
            market_probabilities(probabilities, events, self._policy),
            scores.factor_probabilities,
            thresholds=verdict_thresholds(events, self._policy, self.model.version),
        )


def network_settings(approach: Approach, base: TrainingSettings, *, pretrained: str | None) -> TrainingSettings:
    """Apply an approach's changes to the settings that all networks share.

    Args:
        approach: Of kind network, or the text model of the stacked trees.
        base: Encoder shape, events, steps: equal for all, so that rows differ in one thing only.
        pretrained: The pre-trained encoder; None: every network starts from `base.encoder`, or a random one.
    """
    values = base.model_dump()
    for section, changes in approach.changes.items():
        values[section] = {**values[section], **changes}
    if pretrained and approach.pretrained:
        values["encoder"] = pretrained
    values["name"] = approach.name.replace(", ", "-").replace(" ", "-")
    return type(base).model_validate(values)
