"""A market's first labels: enough for its proof, by chance where it matters, and with what each stands for."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from cancellation.decision.policy import load_policy
from cancellation.decision.sample import LabelledSample, read_sample
from cancellation.decision.thresholds import ThresholdSettings, cases_needed
from cancellation.events.examples import read_examples
from cancellation.events.files import find_event_shards, read_event_rows
from cancellation.events.table import write_labelled
from cancellation.relabelling.cases import read_cases
from cancellation.relabelling.first_labels import FirstSettings, draw_first, flag_by_model, flag_by_rules, size_sample
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster.tracking import TrackingSettings
from jobs.cancellation_first_labels import FirstLabelsJob, main
from tests.builders.reviewers import answer_round
from tests.builders.verdict_models import WordModel

EVENTS = list(simulate(SimulationSettings(num_events=500, markets=("MX",)), 3))
TRUTH = {one.event.event_id: one for one in EVENTS}
FLAGGED = {
    one.event.event_id for one, found in zip(EVENTS, flag_by_rules([e.event for e in EVENTS]), strict=True) if found
}
SMALL = FirstSettings(
    expected_precision=0.9, punished_share=1.0, thresholds=ThresholdSettings(min_precision=0.6, min_cases=29)
)


@pytest.fixture
def events(tmp_path: Path) -> str:
    write_labelled(str(tmp_path / "events.jsonl"), EVENTS)
    return str(tmp_path / "events.jsonl")


def test_the_sample_is_sized_by_the_cases_that_the_promise_needs():
    size = size_sample(50_000, 10_000, FirstSettings())
    # Half of the flagged cases are above a threshold, and a quarter of the labels goes to the temperature.
    cases = cases_needed(0.95, ThresholdSettings())
    assert size.flagged_needed == math.ceil(cases / 0.5 / 0.75)
    assert size.labels == math.ceil(size.flagged_needed / (0.6 * 0.2 + 0.4))
    assert size.by_chance == math.ceil(0.6 * size.labels)
    assert size.by_chance * 0.2 + size.enriched == pytest.approx(size.flagged_needed, abs=2)
    assert size_sample(50_000, 10_000, FirstSettings(min_labels=5000)).labels == 5000
    assert size_sample(50_000, 10_000, FirstSettings(expected_precision=0.93)).labels > 2.5 * size.labels


def test_what_cannot_be_proven_is_said_before_anybody_labels():
    with pytest.raises(ValueError, match=r"981 cancellations, 510 of them flagged, are expected .* found 900 and 180"):
        size_sample(900, 180, FirstSettings())
    with pytest.raises(ValueError, match=r"no number of cases proves 0\.9 at that precision"):
        size_sample(10**6, 10**5, FirstSettings(expected_precision=0.9))


def test_each_case_stands_for_those_of_its_kind_that_were_not_drawn(events):
    cases, size = draw_first(events, "MX", flag_by_rules, SMALL)
    again, _ = draw_first(events, "MX", flag_by_rules, SMALL)
    assert cases == again
    assert size.labels == len(cases) == len({case.event.event_id for case in cases})
    assert size.enriched / size.labels == pytest.approx(0.4, abs=0.02)
    flagged = [case for case in cases if case.event.event_id in FLAGGED]
    assert len(flagged) > 2 * len(cases) * len(FLAGGED) / len(EVENTS) * 0.9
    weights = sum(case.sampling_weight for case in cases)
    assert weights == pytest.approx(len(cases))
    assert sum(case.sampling_weight for case in flagged) / weights == pytest.approx(len(FLAGGED) / len(EVENTS))
    assert {case.why for case in cases} == {"first"}


def test_a_model_can_flag_too(events):
    model = WordModel()
    flagged = flag_by_model(model, 0.5, load_policy())([one.event for one in EVENTS])
    assert 0 < sum(flagged) < len(EVENTS)
    # Logits of 0.5, 1 and -1: with three verdicts induced has a chance of 0.35, with two of 0.38.
    unsure = [replace(one.event, market=code) for one in EVENTS[:20] for code in ("MX", "SG")]
    found = flag_by_model(WordModel(weights={}, bias=0.5), 0.36, load_policy())(unsure)
    assert [one for event, one in zip(unsure, found, strict=True) if event.market == "SG"] == [True] * 20
    assert [one for event, one in zip(unsure, found, strict=True) if event.market == "MX"] == [False] * 20


def test_another_market_among_the_events_is_refused(tmp_path):
    write_labelled(str(tmp_path / "e.jsonl"), simulate(SimulationSettings(num_events=5, markets=("BR",)), 3))
    with pytest.raises(ValueError, match="events of MX alone are expected, found BR too"):
        draw_first(str(tmp_path), "MX", flag_by_rules, SMALL)


def test_answers_become_a_weighted_sample_that_readers_understand(events, tmp_path, capsys):
    settings = {
        "market": "MX",
        "input": events,
        "round": str(tmp_path / "MX"),
        "first": SMALL,
        "tracking": TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db"),
    }
    main(FirstLabelsJob.model_validate(settings))
    main(FirstLabelsJob.model_validate(settings))
    assert "already done" in capsys.readouterr().out
    assert answer_round(tmp_path / "MX", TRUTH, tmp_path / "exports") == len(read_cases(str(tmp_path / "MX"))[1])
    answered = {**settings, "answers": (str(tmp_path / "exports"),), "output": str(tmp_path / "out")}
    main(FirstLabelsJob.model_validate(answered))
    labelled = f"{tmp_path}/out/labelled"
    expected = LabelledSample(source="backfill", drawn="weighted", outcomes=("penalty", "investigate", "none"))
    assert read_sample(labelled) == expected
    examples = list(read_examples(f"{labelled}/first.jsonl"))
    assert all(one.label == TRUTH[one.event.event_id].true_label for one in examples)
    assert sum(one.sampling_weight for one in examples) == pytest.approx(len(examples))
    (shard,) = find_event_shards(labelled, shard_bytes=2**30)
    rows = list(read_event_rows(shard))
    assert [row.sampling_weight for row in rows] == [one.sampling_weight for one in examples]
    exported = tmp_path / "exports/ann.json"
    exported.write_text(json.dumps(json.loads(exported.read_text())[1:]))
    with pytest.raises(ValueError, match=r"cases are expected to be settled, 1 are not"):
        main(FirstLabelsJob.model_validate({**answered, "output": str(tmp_path / "other")}))
