"""Judges by name, and the events that they are asked about."""

from __future__ import annotations

from typing import Literal

from cancellation.comparison.approaches import Judge, NetworkJudge, RulesJudge
from cancellation.comparison.llm_judge import LlmJudge
from cancellation.decision.policy import Policy
from cancellation.events.event import Event
from cancellation.events.files import find_event_shards, read_event_rows
from cancellation.model.verdict_model import load_verdict_model
from cluster.models.files import fetch_model, resolve_model

JudgeName = Literal["shipped", "rules", "llm"]
_WHOLE = 2**30


def read_events(url: str) -> list[Event]:
    """Read all events of a location that can be read."""
    rows = (row for shard in find_event_shards(url, shard_bytes=_WHOLE) for row in read_event_rows(shard))
    return [row.event for row in rows if row.event is not None]


def open_judge(
    name: JudgeName,
    shipped: str,
    language_model: LlmJudge | None,
    policy: Policy,
    *,
    cache_dir: str,
    registry_uri: str | None,
) -> Judge:
    """Load the fusion model, or take the rules, or the language model that is loaded."""
    if name == "rules":
        return RulesJudge()
    if name == "llm":
        assert language_model is not None, "the job opens one for llm"
        return language_model
    files = resolve_model(shipped, registry_uri=registry_uri)
    return NetworkJudge(load_verdict_model(fetch_model(files, cache_dir=cache_dir)), policy)
