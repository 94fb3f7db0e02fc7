"""A round: which labelled events people look at again, and the files that they get.

label_studio/config.xml      the labelling interface
label_studio/<person>.json   a person's tasks
procedure.html               the labelling procedure, for everybody
cases.parquet                what was asked and why: labels, opinions, ranks; for the lead alone
run.json, _SUCCESS           settings and counts
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from cancellation.decision.calibration import choose_events
from cancellation.events.examples import example_files
from cancellation.events.factors import VERDICTS
from cancellation.relabelling.cases import CASES, Case, LabelledRow, write_cases
from cancellation.relabelling.judges import Suspicion, Workshop, doubt_labels
from cancellation.relabelling.procedure import load_procedure
from cancellation.relabelling.tasks import TaskSettings, task_files
from cluster.commit import Output
from cluster.provenance import collect_provenance, hide_credentials, public_settings
from cluster.settings import Settings
from cluster.storage import list_files


class AskSettings(Settings):
    """What is asked."""

    most_fraction: float = Field(default=0.25, gt=0, le=1)
    """Of the labelled events that are taught, at most so many are asked because judges contradict their label."""

    test_fraction: float = Field(default=0.15, gt=0, lt=0.9)
    """Share of the sellers whose events nobody is taught: the same in every round. They are the test set."""

    test_cases: int = Field(default=400, ge=1)
    """Events of the test set, drawn by chance, that people look at again whatever anybody says of them: the test of
    every model, and what says how many labels are wrong at all. Those of earlier rounds count."""


def split_tests(rows: Sequence[LabelledRow], fraction: float) -> tuple[list[LabelledRow], list[LabelledRow]]:
    """Cut labelled rows into those to teach and those to test by, no seller on both sides, alike in every round."""
    apart = choose_events([row.example.event.seller_id for row in rows], fraction, purpose="relabel test")
    pairs = list(zip(rows, apart, strict=True))
    return [row for row, test in pairs if not test], [row for row, test in pairs if test]


def choose_cases(
    rows: Sequence[LabelledRow], rejected: Sequence[Case], workshop: Workshop, settings: AskSettings
) -> list[Case]:
    """Choose what to ask, in the order in which people get it: tests evenly among the others.

    Raises:
        ValueError: If a side of the split is empty, or judges cannot be taught.
    """
    taught, tests = split_tests(rows, settings.test_fraction)
    if not taught or not tests:
        raise ValueError(
            f"input: labelled events of sellers to teach and of others to test by are expected, found {len(taught)} "
            f"and {len(tests)}; label more, or change ask.test_fraction"
        )
    examples = [row.example for row in taught]
    # What a language model has not judged is missed before the others have taken hours.
    said = {kind: workshop.out_of_fold(kind, examples) for kind in sorted(workshop.settings.kinds, key="llm".__ne__)}
    opinions = {kind: said[kind] for kind in workshop.settings.kinds}
    labels = np.array([VERDICTS.index(one.label) for one in examples])
    doubt = doubt_labels(labels, list(opinions.values()))
    once = [place for place in doubt.order() if not taught[place].history]  # who looked twice is not asked again
    asked = once[: int(len(taught) * settings.most_fraction)]
    doubted = [_case(taught[place], place, rank, doubt, opinions) for rank, place in enumerate(asked, 1)]
    known = {row.example.event.event_id for row in rows}  # people have labelled these: doubt decides, as of the others
    new = [case for case in rejected if case.event.event_id not in known]
    return interleave([*new, *doubted], _draw_tests(tests, settings.test_cases))


def interleave(ordered: Sequence[Case], others: Sequence[Case]) -> list[Case]:
    """Spread other cases evenly among ordered ones."""
    places = [((rank + 0.5) / len(part), part is others) for part in (ordered, others) for rank in range(len(part))]
    parts = {False: iter(ordered), True: iter(others)}
    return [next(parts[of]) for _, of in sorted(places)]


def _case(row: LabelledRow, place: int, rank: int, doubt: Suspicion, opinions: Mapping[str, np.ndarray]) -> Case:
    return Case(
        event=row.example.event,
        why="contradicted",
        rank=rank,
        label=row.example.label,
        quality=float(doubt.quality[place]),
        contradicted=int(doubt.contradicted[place]),
        opinions={name: opinion[place].tolist() for name, opinion in opinions.items()},
    )


def _draw_tests(tests: Sequence[LabelledRow], wanted: int) -> list[Case]:
    done = sum(bool(row.history) for row in tests)
    fresh = [row for row in tests if not row.history]
    order = np.random.default_rng(0).permutation(len(fresh))
    drawn = [fresh[place] for place in order[: max(0, wanted - done)]]
    return [Case(row.example.event, "test", rank, row.example.label) for rank, row in enumerate(drawn, 1)]


def round_plan(url: str, settings: Mapping[str, Settings], **others: Any) -> dict[str, Any]:
    """Say what a round is a function of."""
    files = [file for one in example_files(url) for file in list_files(one)]
    return {
        "input": hide_credentials(url),
        "input_files": [[hide_credentials(file.url), file.size_bytes, file.version] for file in files],
        "settings": {name: public_settings(one) for name, one in settings.items()},
        "procedure": load_procedure().digest,
        **others,
    }


def make_round(
    output: Output,
    plan: Mapping[str, Any],
    choose: Callable[[], list[Case]],
    tasks: TaskSettings,
    *,
    figures: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Choose cases and write a round, or find it written; give its manifest, with `figures` as `choose` left them.

    Raises:
        ValueError: If the folder holds another round: people may be at work on it.
    """
    if committed := output.find(plan):
        return {**committed, "already_done": True}
    cases, procedure = choose(), load_procedure()
    output.open(plan)  # not before: a round that cannot be made must not claim the folder
    name = output.url.rstrip("/").rpartition("/")[2]
    files = {**task_files(cases, procedure, tasks, round_name=name), CASES: write_cases(cases)}
    manifest = {
        "round": name,
        "procedure": procedure.version,
        "procedure_digest": procedure.digest,
        "annotators_per_case": tasks.annotators_per_case,
        "asked": dict(Counter(case.why for case in cases)),
        "figures": dict(figures or {}),
    }
    files["run.json"] = json.dumps({**manifest, **collect_provenance().as_dict(), "plan": plan}, indent=1).encode()
    output.publish({file: output.write_data(file.replace("/", "-"), content) for file, content in files.items()})
    output.commit(plan, manifest)
    output.clean_up()
    return {**manifest, "already_done": False}
