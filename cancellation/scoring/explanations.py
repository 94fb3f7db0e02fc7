"""Why a verdict: what each decision factor loses when one chat turn, one entry or one feature is erased.

Evidence is a place in the event (`chat[3]`, `fulfilment[0]`) or features with their raw values; never free text.
About a hundred variants of the event go through the model in one call, so it is made only for verdicts with an
action, and never while somebody waits for the verdict. Erasing one of two turns that say the same loses little:
the evidence is then the one that loses more, not the only one there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cancellation.decision.calibration import INDUCED
from cancellation.events.event import FULFILMENT_KINDS, Event
from cancellation.events.factors import BUYER_FACTORS, FACTORS, SELLER_FACTORS
from cancellation.features.vector import FEATURES
from cancellation.text.encoding import EncodedEvent
from cancellation.text.timeline import BUYER, FULFILMENT, SELLER, SYSTEM, Timeline, timeline
from cluster.statistics.temperature import class_probabilities

if TYPE_CHECKING:
    from cancellation.model.verdict_model import Scores, VerdictModel
    from cancellation.text.encoding import EventEncoder

MAX_PLACES = 64
"""Turns and entries that are erased, the latest; older ones have fallen out of most timelines."""

_CHAT = (BUYER, SELLER, SYSTEM)
_PREFERRED: dict[str, tuple[tuple[str, ...], ...]] = {
    # Who said it; else anybody, as a buyer may quote what was said on the phone.
    **{code: ((SELLER,), _CHAT) for code in SELLER_FACTORS if code.startswith("chat.")},
    **dict.fromkeys(BUYER_FACTORS, ((BUYER,), _CHAT)),
    # What was done; else any entry.
    **{
        code: ((code.removeprefix("fulfilment."),), FULFILMENT_KINDS)
        for code in SELLER_FACTORS
        if code.startswith("fulfilment.")
    },
    # Calls, load, and what did not happen have no place, only numbers.
    **{code: () for code in SELLER_FACTORS if code.startswith(("call.", "seller."))},
    "chat.no_reply": (),
    "fulfilment.no_shipping_update": (),
}
"""What may be a factor's evidence: one of the first kinds of places if erasing it loses something, else of the next."""

_NUM_FEATURES = 3
_MIN_LOSS = 0.005
"""Losses of probability below this are the model's grain, not evidence."""


@dataclass(frozen=True, slots=True)
class Place:
    """A turn or an entry: `chat[3]` of a seller, `fulfilment[0]` of a kind."""

    name: str
    what: str


@dataclass(frozen=True)
class Erasures:
    """What erasing each place and each feature takes away; rows of the arrays follow `places` and `features`."""

    places: tuple[Place, ...]
    place_losses: np.ndarray
    """Of each factor's probability, (places, 18); below zero where erasing raises it."""
    place_score_losses: np.ndarray
    """Of the induced probability, (places,)."""
    features: tuple[int, ...]
    """Numbers of the features that have a value."""
    feature_losses: np.ndarray
    feature_score_losses: np.ndarray


def explain_verdict(event: Event, verdict: Mapping[str, Any], model: VerdictModel | RecordedFeatures) -> dict[str, Any]:
    """Give a verdict with evidence for each of its decision factors; one without an action stays as it is.

    Args:
        event: The verdict's event.
        verdict: In the contract's form.
        model: The one that made the verdict.
    """
    factors = verdict["decision_factors"]
    if verdict["action"] == "none" or verdict["source"] != "model" or not factors:
        return dict(verdict)
    whole = timeline(event)
    encoded = model.encoder.encode_timeline(event, whole)
    classes = sum(share is not None for share in verdict["probabilities"].values())
    erasures = erase(event, whole, encoded, model, classes=classes)
    explained = [{**factor, "evidence": evidence(factor["code"], encoded, erasures)} for factor in factors]
    return {**verdict, "decision_factors": explained}


class RecordedFeatures:
    """A model as `explain_verdict` sees it where features are on record and the event may be a redacted one.

    What the features were is known, and of a redacted text some would come out otherwise.
    """

    def __init__(
        self,
        encoder: EventEncoder,
        temperature: float,
        features: Sequence[float | None],
        score: Callable[[Sequence[EncodedEvent]], Scores],
    ) -> None:
        self.encoder = self
        self.temperature = temperature
        self.score = score
        self._texts = encoder
        self._features = np.array([np.nan if value is None else value for value in features], np.float32)

    def encode_timeline(self, event: Event, whole: Timeline) -> EncodedEvent:
        """Encode the text of an event that may lack some of its timeline."""
        token_ids, positions = self._texts.fit(whole)
        return EncodedEvent(event.event_id, event.market, token_ids, positions, self._features)


def erase(
    event: Event, whole: Timeline, encoded: EncodedEvent, model: VerdictModel | RecordedFeatures, *, classes: int
) -> Erasures:
    """Score the event without each of its turns, entries and features, all in one call; `classes` of its market."""
    places = [position for position in encoded.positions if whole.segments[position].kind in (*_CHAT, FULFILMENT)]
    places = places[-MAX_PLACES:]
    present = tuple(np.flatnonzero(~np.isnan(encoded.features)).tolist())
    variants = [encoded]
    variants += [model.encoder.encode_timeline(event, whole.without(position)) for position in places]
    variants += [_without_feature(encoded, number) for number in present]
    scores = model.score(variants)
    factors = scores.factor_probabilities.astype(np.float64)
    induced = class_probabilities(scores.logits[:, :classes], model.temperature)[:, INDUCED]
    losses, score_losses = factors[0] - factors[1:], induced[0] - induced[1:]
    split = len(places)
    return Erasures(
        places=tuple(_place(event, whole, position) for position in places),
        place_losses=losses[:split],
        place_score_losses=score_losses[:split],
        features=present,
        feature_losses=losses[split:],
        feature_score_losses=score_losses[split:],
    )


def evidence(code: str, encoded: EncodedEvent, erasures: Erasures) -> str | None:
    """Choose a factor's evidence: the place that loses it most, else the features that moved it most.

    Where no erasure moves the factor itself, the score decides: downwards for what speaks against the seller,
    upwards for a buyer's own reason. None if nothing moves either.
    """
    column, sign = FACTORS.index(code), -1.0 if code in BUYER_FACTORS else 1.0
    for place_losses, feature_losses in (
        (erasures.place_losses[:, column], erasures.feature_losses[:, column]),
        (sign * erasures.place_score_losses, sign * erasures.feature_score_losses),
    ):
        for what in _PREFERRED[code]:
            numbers = [number for number, place in enumerate(erasures.places) if place.what in what]
            best = max(numbers, key=place_losses.__getitem__, default=None)
            if best is not None and place_losses[best] >= _MIN_LOSS:
                return erasures.places[best].name
        order = np.argsort(-feature_losses, kind="stable")[:_NUM_FEATURES]
        moved = [erasures.features[row] for row in order if feature_losses[row] >= _MIN_LOSS]
        if moved:
            return f"features: {', '.join(_feature(number, encoded) for number in moved)}"
    return None


def _place(event: Event, whole: Timeline, position: int) -> Place:
    segment = whole.segments[position]
    if segment.kind == FULFILMENT:
        kind = next(entry.kind for entry in event.fulfilment if entry.index == segment.index)
        return Place(f"fulfilment[{segment.index}]", kind)
    return Place(f"chat[{segment.index}]", segment.kind)


def _feature(number: int, encoded: EncodedEvent) -> str:
    feature = FEATURES[number]
    return f"{feature.name}={encoded.features[number]:.6g} {feature.unit}"


def _without_feature(encoded: EncodedEvent, number: int) -> EncodedEvent:
    erased = encoded.features.copy()
    erased[number] = np.nan
    return replace(encoded, features=erased)
