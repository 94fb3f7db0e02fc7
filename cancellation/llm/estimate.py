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
from cluster.endpoint.client import most_tokens

_SAMPLE, _TIMED = 100, 2
_BYTES_PER_TOKEN = 3.2
"""Of prompts in English and code-like tags, measured with SmolLM2's vocabulary; other scripts have fewer, so their
prompts cost up to three times as much with an English vocabulary."""
_MOST_BYTES_PER_TOKEN = 8
"""Of an answer that is shown again; more would be a word's worth, and reasoning is not made of the longest words."""
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
    """With nothing cached, every answer as long as it may be, and none of them usable before the last try."""

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
    backend = open_backend(run.backend, run.model, cache_dir=run.cache_dir)
    index = load_index(run.labelling.retrieval, run.encoder, cache_dir=run.cache_dir)
    labeller = Labeller(backend, run.labelling, run.policy, index)
    total, cached = _prompt_bytes(labeller, sample)
    passes = 2 if run.labelling.judging.reflect else 1
    scale = passes * len(events) / len(sample)
    prompt, same = round(total * scale / _BYTES_PER_TOKEN), round(cached * scale / _BYTES_PER_TOKEN)
    answers, longest = _ANSWER_TOKENS, run.labelling.judging.sampling.max_tokens
    if run.backend.kind == "endpoint":
        cost = run.backend.endpoint.cost
        usd = cost(prompt, same, answers * passes * len(events))
        most = cost(_most_prompt_tokens(labeller, sample), 0, longest * passes * len(sample))
        most *= run.labelling.tries * len(events) / len(sample)
    else:
        usd = _timed_cost(labeller, sample) * len(events)
        most = usd * longest / answers * run.labelling.tries
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


def _most_prompt_tokens(labeller: Labeller, events: Sequence[Event]) -> int:
    """Bound the tokens of one answer's prompts for each event, as they are booked where a server gives no figures."""
    prompts = [labeller.prompt(event) for event in events]
    if labeller.settings.judging.reflect:
        answer = "x" * (_MOST_BYTES_PER_TOKEN * labeller.settings.judging.sampling.max_tokens)
        prompts += [prompt.reflecting(answer) for prompt in prompts]
    return sum(most_tokens([turn.text for turn in prompt.turns]) for prompt in prompts)


def _common_bytes(one: bytes, other: bytes) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _timed_cost(labeller: Labeller, events: Sequence[Event]) -> float:
    """USD of an event, by labelling some; the first one is not counted, as it computes the shared beginning."""
    labeller.label(events[0])
    timed = [labeller.label(event)["cost_usd"] for event in events[: _TIMED + 1][-_TIMED:]]
    return sum(timed) / len(timed)
