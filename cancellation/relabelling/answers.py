"""What people said comes back: checked, settled case by case, and put beside the label that was there before."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cancellation.events.event import event_mapping
from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.relabelling.cases import FORGOTTEN, HISTORY, Case, LabelledRow
from cancellation.relabelling.procedure import MAX_FACTORS
from cancellation.relabelling.tasks import CATEGORY, FACTORS_CHOSEN, REASONING
from cluster import storage
from cluster.annotation.label_studio import Annotation, name_people, read_export
from cluster.provenance import hide_credentials
from cluster.sharded.input_files import files_from_people


@dataclass(frozen=True)
class Answer:
    """One person's label of one case."""

    event_id: str
    label: str
    factors: tuple[str, ...]
    by: str
    at: str
    why: str


@dataclass(frozen=True)
class Settled:
    """What people together say of a case."""

    event_id: str
    label: str | None
    """None: open, they are divided or too few have answered."""
    factors: tuple[str, ...]
    """Those that at least half of the people for the label named."""
    answers: tuple[Answer, ...]
    """Everybody's last word."""


def read_answers(
    urls: Sequence[str], cases: Mapping[str, Case], manifest: Mapping[str, Any], *, people: Mapping[str, str]
) -> list[Answer]:
    """Read Label Studio exports: .json files, or folders of them alone.

    Args:
        urls: Where.
        cases: Of the round, by event.
        manifest: The round's: answers by another procedure, or to another round, are refused.
        people: Names of Label Studio's users, by e-mail or number; else a task's own annotator stands.

    Raises:
        ValueError: If an answer cannot be used; file, event and person are named, never what they wrote.
    """
    answers = []
    for file in files_from_people(urls, (".json",)):
        name = file.url.rpartition("/")[2]
        given = [one for one in read_export(storage.read_bytes(file.url), name=name) if one.chosen]
        by = name_people([(str(one.data.get("annotator") or ""), one.user) for one in given], people, name=name)
        answers += [_answer(one, name, cases, manifest, who) for one, who in zip(given, by, strict=True)]
    return answers


def _answer(one: Annotation, name: str, cases: Mapping[str, Case], manifest: Mapping[str, Any], by: str) -> Answer:
    event_id = str(one.data.get("event_id"))
    where = f"{name}: event {event_id}, annotator {by!r}"
    if str(one.data.get("round")) != manifest["round"] or event_id not in cases:
        gone = manifest.get(FORGOTTEN)
        hint = f" ({gone} of its cases were forgotten since: delete those tasks in Label Studio)" if gone else ""
        raise ValueError(f"{where}: expected an answer to round {manifest['round']}, found another; leave it out{hint}")
    if one.data.get("procedure_digest") != manifest["procedure_digest"]:
        raise ValueError(f"{where}: labelled by another procedure than the round's; ask again in a round of its own")
    label, factors = one.first(CATEGORY), one.chosen.get(FACTORS_CHOSEN, ())
    if label not in VERDICTS:
        raise ValueError(f"{where}: expected a category, one of {', '.join(VERDICTS)}, found none; choose one")
    if len(factors) > MAX_FACTORS or not set(factors) <= set(FACTORS):
        raise ValueError(f"{where}: expected at most {MAX_FACTORS} decision factors of the contract; correct them")
    why = " ".join(one.chosen.get(REASONING, ())).strip()
    if not why:
        raise ValueError(f"{where}: expected a reasoning, found none; write a sentence")
    ordered = tuple(code for code in FACTORS if code in factors)
    return Answer(event_id, label, ordered, by, one.annotated_at, why)


def settle(answers: Sequence[Answer], *, needed: int) -> dict[str, Settled]:
    """Settle each case that somebody answered: more than half of at least `needed` people, or it stays open."""
    by_case: dict[str, dict[str, Answer]] = defaultdict(dict)
    for answer in sorted(answers, key=lambda one: one.at):
        by_case[answer.event_id][answer.by] = answer  # a person's last word
    return {event_id: _settle(event_id, list(said.values()), needed) for event_id, said in sorted(by_case.items())}


def _settle(event_id: str, said: Sequence[Answer], needed: int) -> Settled:
    label, count = Counter(one.label for one in said).most_common(1)[0]
    if len(said) < needed or 2 * count <= len(said):
        return Settled(event_id, None, (), tuple(said))
    supporters = [one for one in said if one.label == label]
    named = Counter(code for one in supporters for code in one.factors)
    return Settled(event_id, label, tuple(code for code in FACTORS if 2 * named[code] >= max(1, count)), tuple(said))


def corrected_row(row: LabelledRow, settled: Settled | None, manifest: Mapping[str, Any], source: str) -> str:
    """Write a labelled row as a line of JSON: its label as people settled it, and all that it had before."""
    example, others = row.example, {name: value for name, value in row.others.items() if name != HISTORY}
    said = {"label": example.label, "label_factors": None if example.factors is None else list(example.factors)}
    history = list(row.history)
    if settled is not None and settled.label is not None:
        first = {
            **said,
            "by": others.get("labelled_by"),
            "at": others.get("labelled_at"),
            "why": others.get("label_reason"),
            "from": hide_credentials(source),
        }
        history = [*(history or [first]), *_entries(settled, manifest)]
        said = {"label": settled.label, "label_factors": list(settled.factors)}
    line = {"event": event_mapping(example.event), **others, **said, **({HISTORY: history} if history else {})}
    if example.weight != 1.0:
        line["label_weight"] = example.weight
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=str) + "\n"


def new_row(case: Case, settled: Settled, manifest: Mapping[str, Any]) -> str:
    """Write a case that was in no labelled set, as a line of JSON; a rejected verdict is its first label."""
    before = [] if case.label is None else [{"label": case.label, "by": case.labelled_by, "why": case.why}]
    line = {
        "event": event_mapping(case.event),
        "label": settled.label,
        "label_factors": list(settled.factors),
        **({} if case.sampling_weight is None else {"sampling_weight": case.sampling_weight}),
        HISTORY: [*before, *_entries(settled, manifest)],
    }
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"


def _entries(settled: Settled, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Everybody's answer, those of the outvoted among them."""
    rules = {"round": manifest["round"], "procedure": manifest["procedure"]}
    return [
        {"label_factors": list(answer.factors), **{k: v for k, v in asdict(answer).items() if k in _KEPT}, **rules}
        for answer in settled.answers
    ]


_KEPT = ("label", "by", "at", "why")
