"""What labelling a set of events will cost, said before anything is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from cancellation.events.event import Event
from cancellation.events.files import find_event_shards, read_event_rows
from cancellation.llm.backends import open_backend
from cancellation.llm.labelling import Labeller
from cancellation.llm.retrieval import load_index
from cancellation.llm.run import LabellingRun

_SAMPLE, _TIMED = 100, 2
_BYTES_PER_TOKEN = 3.2
"""Of prompts in English and code-like tags, measured with SmolLM2's vocabulary; other scripts have fewer, so their
prompts cost up to three times as much with an English vocabulary."""
_ANSWER_TOKENS = 90


@dataclass(frozen=True)
class Estimate:
    """Tokens and dollars of a whole input."""

    events: int
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt's: what prompts behind one another begin with alike, if the server caches prefixes."""
    completion_tokens: int
    cost_usd: float
    most_usd: float
    """With every answer as long as it may be, and nothing cached."""

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{self.events:,} events: about {self.prompt_tokens:,} tokens of prompts, {self.cached_tokens:,} of them "
            f"the same as just before; about {self.completion_tokens:,} of answers",
            f"about ${self.cost_usd:,.2f}, at most ${self.most_usd:,.2f}; nothing was asked, nothing was written",
        ]


def estimate_cost(run: LabellingRun) -> Estimate:
    """Look at some of the events and scale up; a model in this process is timed on two of them.

    Raises:
        ValueError: If the input or the examples cannot be read, or hold no event.
    """
    shards = find_event_shards(run.input, shard_bytes=run.settings.shard_bytes)
    rows = [row for shard in shards for row in read_event_rows(shard)]
    events = [row.event for row in rows if row.event is not None]
    if not events:
        raise ValueError(f"{run.input}: expected events, found none that could be read")
    sample = list(islice(events, 0, None, max(len(events) // _SAMPLE, 1)))[:_SAMPLE]
    backend = open_backend(run.backend, cache_dir=run.cache_dir)
    labeller = Labeller(
        backend, run.labelling, run.policy, load_index(run.labelling.retrieval, cache_dir=run.cache_dir)
    )
    total, cached = _prompt_bytes(labeller, sample)
    passes = 2 if run.labelling.judging.reflect else 1
    scale = passes * len(events) / len(sample)
    prompt, same = round(total * scale / _BYTES_PER_TOKEN), round(cached * scale / _BYTES_PER_TOKEN)
    answers, longest = _ANSWER_TOKENS, run.labelling.judging.sampling.max_tokens
    if run.backend.kind == "endpoint":
        cost = run.backend.endpoint.cost
        usd = cost(prompt, same, answers * passes * len(events))
        most = cost(round(total * scale), 0, longest * passes * len(events) * run.labelling.tries)
    else:
        usd = _timed_cost(labeller, sample) * len(events)
        most = usd * longest / answers
    return Estimate(len(events), prompt, same, answers * passes * len(events), usd, most)


def _prompt_bytes(labeller: Labeller, events: Sequence[Event]) -> tuple[int, int]:
    """Bytes of the prompts, and of those what each begins with like the one before."""
    total = cached = 0
    before = ""
    for event in sorted(events, key=lambda one: one.market):
        text = "\n".join(turn.text for turn in labeller.prompt(event).turns)
        total += len(text.encode())
        cached += _common_bytes(before.encode(), text.encode())
        before = text
    return total, cached


def _common_bytes(one: bytes, other: bytes) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _timed_cost(labeller: Labeller, events: Sequence[Event]) -> float:
    """USD of an event, by labelling some; the first one is not counted, as it computes the shared beginning."""
    labeller.label(events[0])
    timed = [labeller.label(event)["cost_usd"] for event in events[: _TIMED + 1][-_TIMED:]]
    return sum(timed) / len(timed)
