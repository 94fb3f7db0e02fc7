"""What gateway and model say to each other: an encoded event as bytes, and one typed answer per event.

Bytes of known layout, because what crosses a process must be readable by another version of the code; an
answer per event, because an exception would be the answer of the whole batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cancellation.model.spec import ModelIdentity
from cancellation.text.encoding import EncodedEvent


@dataclass(frozen=True, slots=True)
class Scored:
    """Raw scores of one event and who gave them; times in milliseconds."""

    logits: list[float]
    factors: list[float]
    model_version: str
    temperature: float
    queue_ms: float
    model_ms: float
    markets: tuple[str, ...] = ()
    """Markets that the model was trained on; a replica that does not say was trained on none."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model gave the scores."""
        return ModelIdentity(self.model_version, self.temperature, self.markets)


@dataclass(frozen=True, slots=True)
class Unscored:
    """No scores, and why.

    late: the deadline passed; shed: too many wait; poison: the model cannot score this event; stale: it was
    encoded for another model; dead: the model is gone, hung or failing.
    """

    reason: str


Reply = Scored | Unscored

LATE, SHED, POISON, STALE, DEAD = (Unscored(reason) for reason in ("late", "shed", "poison", "stale", "dead"))


def pack_event(encoded: EncodedEvent, *, encoder: str, left_ms: float, bulk: bool) -> bytes:
    """Write an encoded event for a model replica.

    `encoder` is the version that encoded it. The time left travels, not an instant: clocks differ.
    """
    head = {
        "id": encoded.event_id,
        "market": encoded.market,
        "tokens": len(encoded.token_ids),
        "encoder": encoder,
        "left_ms": left_ms,
        "bulk": bulk,
    }
    tokens = np.asarray(encoded.token_ids, "<i4").tobytes()
    return json.dumps(head).encode() + b"\n" + tokens + encoded.features.astype("<f4").tobytes()


def unpack_event(data: bytes) -> tuple[EncodedEvent, dict[str, Any]]:
    """Read an event back, and its head. Places in the timeline do not travel: only explanations need them."""
    line, _, rest = data.partition(b"\n")
    head = json.loads(line)
    split = 4 * head["tokens"]
    tokens = np.frombuffer(rest[:split], "<i4").tolist()
    features = np.frombuffer(rest[split:], "<f4").astype(np.float32)
    return EncodedEvent(head["id"], head["market"], tokens, (), features), head


def pack_reply(reply: Reply) -> bytes:
    """Write an answer."""
    return pack_replies([reply])


def unpack_reply(data: bytes) -> Reply:
    """Read an answer."""
    return unpack_replies(data)[0]


def pack_replies(replies: Sequence[Reply]) -> bytes:
    """Write answers."""
    return json.dumps([asdict(reply) for reply in replies]).encode()


def unpack_replies(data: bytes) -> list[Reply]:
    """Read answers."""
    return [Unscored(**fields) if "reason" in fields else _scored(fields) for fields in json.loads(data)]


def _scored(fields: dict[str, Any]) -> Scored:
    return Scored(**{**fields, "markets": tuple(fields.get("markets", ()))})
