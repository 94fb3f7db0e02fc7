"""A round that people have answered becomes corrected labels, a report, and what the labels gain.

labelled/corrected.jsonl   the labelled set again, labels as people settled them, each row with its history
labelled/rejected.jsonl    verdicts in service that people rejected, labelled anew; chosen, so they prove nothing
report.json, report.html   how many changed and to what, how well doubt found them, what both models gain
_SUCCESS
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from cancellation.decision.sample import LabelledSample, read_sample, write_sample
from cancellation.events.examples import Example
from cancellation.relabelling.answers import Answer, Settled, corrected_row, new_row, settle
from cancellation.relabelling.cases import FORGOTTEN, Case, LabelledRow
from cancellation.relabelling.changes import changes
from cancellation.relabelling.gain import Gain, measure_gains
from cancellation.relabelling.judges import Workshop
from cancellation.relabelling.page import render_correction
from cancellation.relabelling.round import split_tests
from cluster.commit import Output
from cluster.provenance import collect_provenance, hide_credentials
from cluster.storage import join_url

CORRECTED, REJECTED, FIRST = "labelled/corrected.jsonl", "labelled/rejected.jsonl", "labelled/first.jsonl"
REPORT, PAGE = "report.json", "report.html"
_ALL = ("penalty", "investigate", "none")


@dataclass(frozen=True)
class Correction:
    """A round with everything that it needs to become labels."""

    source: str
    """Of the labelled rows."""
    rows: Sequence[LabelledRow]
    cases: Mapping[str, Case]
    manifest: Mapping[str, Any]
    answers: Sequence[Answer]
    test_fraction: float

    def plan(self) -> dict[str, Any]:
        """What the output is a function of, beside the settings: the answers themselves, not the files they came in."""
        return {"round": self.manifest["attempt"], "answers": _answers_digest(self.answers)}


def correct(
    correction: Correction, output: Output, plan: Mapping[str, Any], workshop: Workshop | None
) -> dict[str, Any]:
    """Write corrected labels and the report; without a workshop nothing is trained, and gains are not measured.

    Raises:
        ValueError: If the folder holds the result of other answers, or the labelled set has not all events that people
            looked at again.
        RuntimeError: If training failed.
    """
    _require_asked(correction)
    if committed := output.open(plan):
        return {**committed["report"], "already_done": True}
    settled = settle(correction.answers, needed=correction.manifest["annotators_per_case"])
    labelled = _labelled_files(correction, settled)
    report = {
        "round": correction.manifest["round"],
        "procedure": correction.manifest["procedure"],
        "people": sorted({one.by for one in correction.answers}),
        **changes(correction.cases, settled),
        "gains": [gain.as_dict() for gain in _gains(correction, settled, workshop)] if workshop else [],
        "rejected_taught": len(_taught_anew(correction, settled)) if workshop else 0,
        "rows": _num_rows(labelled),
        FORGOTTEN: 0,
        "made": {**collect_provenance().as_dict(), "settings": dict(plan)},
    }
    files = {**labelled, **report_files(report)}
    output.publish({name: output.write_data(name.replace("/", "-"), content) for name, content in files.items()})
    _write_samples(correction.source, output.url, rejected=REJECTED in files)
    output.commit(plan, {"report": report})
    output.clean_up()
    return {**report, "already_done": False}


def _require_asked(correction: Correction) -> None:
    """See to it that every answer finds its row: of another set the corrections would be lost without a word."""
    known = {row.example.event.event_id for row in correction.rows}
    asked = {one.event_id for one in correction.answers if correction.cases[one.event_id].why != "rejected"}
    if lost := sorted(asked - known):
        raise ValueError(
            f"input {hide_credentials(correction.source)}: expected the labelled events that round "
            f"{correction.manifest['round']} asked about, found {len(asked) - len(lost):,} of {len(asked):,} (not "
            f"{lost[0]}); give the set that the round was made from, or one that has all of it"
        )


def report_files(report: Mapping[str, Any]) -> dict[str, bytes]:
    """Write a report and its page, by file name."""
    return {REPORT: json.dumps(report, indent=1).encode(), PAGE: render_correction(report)}


def _num_rows(labelled: Mapping[str, bytes]) -> dict[str, int]:
    return {name: content.count(b"\n") for name, content in labelled.items()}


def _labelled_files(correction: Correction, settled: Mapping[str, Settled]) -> dict[str, bytes]:
    lines = [
        corrected_row(row, settled.get(row.example.event.event_id), correction.manifest, correction.source)
        for row in correction.rows
    ]
    files = {CORRECTED: "".join(lines).encode()}
    known = {row.example.event.event_id for row in correction.rows}
    new = [
        new_row(case, settled[name], correction.manifest)
        for name, case in correction.cases.items()
        if case.why == "rejected" and name in settled and settled[name].label is not None and name not in known
    ]
    return {**files, **({REJECTED: "".join(new).encode()} if new else {})}


def write_first(
    cases: Mapping[str, Case], manifest: Mapping[str, Any], answers: Sequence[Answer], output: Output
) -> dict[str, Any]:
    """Write a market's first labels, and beside them how they were drawn.

    Raises:
        ValueError: If the folder holds the result of other answers, or cases are still to be labelled: those that are
            hard to settle would be missing from what the others stand for.
    """
    plan = {"round": manifest["attempt"], "answers": _answers_digest(answers)}
    if committed := output.open(plan):
        return {**committed["report"], "already_done": True}
    settled = settle(answers, needed=manifest["annotators_per_case"])
    missing = [name for name in cases if name not in settled or settled[name].label is None]
    if missing:
        raise ValueError(
            f"round {manifest['round']}: all {len(cases):,} cases are expected to be settled, {len(missing):,} are "
            "not; a sample without the hard ones stands for nothing: label them, or ask one more person"
        )
    content = "".join(new_row(case, settled[name], manifest) for name, case in cases.items()).encode()
    report = {
        "labels": dict(Counter(one.label for one in settled.values())),
        "procedure": manifest["procedure"],
        "rows": _num_rows({FIRST: content}),
    }
    output.publish({FIRST: output.write_data("first", content)})
    write_sample(join_url(output.url, FIRST), LabelledSample(source="backfill", drawn="weighted", outcomes=_ALL))
    output.commit(plan, {"report": report})
    output.clean_up()
    return {**report, "already_done": False}


def _answers_digest(answers: Sequence[Answer]) -> str:
    said = sorted([one.event_id, one.label, *one.factors, one.by, one.at, one.why] for one in answers)
    return sha256(json.dumps(said).encode()).hexdigest()[:16]


def _write_samples(source: str, url: str, *, rejected: bool) -> None:
    """Corrected labels are drawn as they were before; rejected verdicts are what somebody chose."""
    try:
        sample = read_sample(source)
    except ValueError:  # nobody wrote down how they were drawn: then they prove nothing, as before
        sample = None
    if sample is not None:
        write_sample(join_url(url, CORRECTED), sample)
    if rejected:
        write_sample(join_url(url, REJECTED), LabelledSample(source="backfill", drawn="chosen", outcomes=_ALL))


def _gains(correction: Correction, settled: Mapping[str, Settled], workshop: Workshop) -> list[Gain]:
    taught, tests = split_tests(correction.rows, correction.test_fraction)
    before = [row.example for row in taught]
    after = [*(_corrected(one, settled) for one in before), *_taught_anew(correction, settled)]
    looked_at = [row.example for row in tests if row.history or _is_settled(row.example, settled)]
    return measure_gains(before, after, [_corrected(one, settled) for one in looked_at], workshop)


def _taught_anew(correction: Correction, settled: Mapping[str, Settled]) -> list[Example]:
    """Rejected verdicts that models are taught beside the labelled set: of no seller whose events test them."""
    _, tests = split_tests(correction.rows, correction.test_fraction)
    apart = {row.example.event.seller_id for row in tests}
    known = {row.example.event.event_id for row in correction.rows}
    return [
        Example(case.event, one.label, one.factors)
        for name, one in settled.items()
        if (case := correction.cases[name]).why == "rejected"
        and one.label is not None
        and name not in known
        and case.event.seller_id not in apart
    ]


def _is_settled(example: Example, settled: Mapping[str, Settled]) -> bool:
    found = settled.get(example.event.event_id)
    return found is not None and found.label is not None


def _corrected(example: Example, settled: Mapping[str, Settled]) -> Example:
    found = settled.get(example.event.event_id)
    if found is None or found.label is None:
        return example
    return replace(example, label=found.label, factors=found.factors)
