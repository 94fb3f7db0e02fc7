"""The page of a round that people answered, in a real browser; whoever is asked about has chosen an ugly name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cancellation.comparison.learners import TreeSettings
from cancellation.decision.policy import load_policy
from cancellation.events.table import write_labelled
from cancellation.relabelling.answers import read_answers
from cancellation.relabelling.cases import Case, read_cases, read_labelled
from cancellation.relabelling.correction import Correction, correct
from cancellation.relabelling.judges import JudgeSettings, Workshop
from cancellation.relabelling.round import make_round, split_tests
from cancellation.relabelling.tasks import TaskSettings
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster.commit import Output
from cluster.training.train import TrainerSettings
from tests.builders.reviewers import answer_round
from tests.measures.pages import assert_legible

HOSTILE = "<script>document.title='owned'</script><img src='/leak'>"
EVENTS = [
    replace(one, event=replace(one.event, event_id=f"{HOSTILE}{number}"))
    for number, one in enumerate(simulate(SimulationSettings(num_events=200, label_noise=0.2), 5))
]
TEST_FRACTION = 0.2


def test_the_page_in_a_browser(browser: str, tmp_path: Path) -> None:
    source = str(tmp_path / "labelled.jsonl")
    write_labelled(source, EVENTS)
    rows = read_labelled(source)
    taught, tests = split_tests(rows, TEST_FRACTION)
    opinions = [{"trees": [0.9, 0.05, 0.05], "fusion": one} for one in ([0.5, 0.3, 0.2], [0.1, 0.2, 0.7])]
    cases = [
        Case(row.example.event, "contradicted", rank, row.example.label, 0.1, 2, opinions[rank % 2])
        for rank, row in enumerate(taught[:60], 1)
    ]
    cases += [Case(row.example.event, "test", rank, row.example.label) for rank, row in enumerate(tests, 1)]
    make_round(Output(str(tmp_path / "round")), {}, lambda: cases, TaskSettings(annotators_per_case=2))
    answer_round(tmp_path / "round", {one.event.event_id: one for one in EVENTS}, tmp_path / "exports", wrong=0.1)
    manifest, by_event = read_cases(str(tmp_path / "round"))
    answers = read_answers([str(tmp_path / "exports")], by_event, manifest, people={})
    correction = Correction(source, rows, by_event, manifest, answers, TEST_FRACTION)
    judges = JudgeSettings(kinds=("trees", "llm"), llm=str(tmp_path / "not_asked"), trees=TreeSettings(max_iter=5))
    workshop = Workshop(judges, TrainerSettings(), tmp_path, "", load_policy())
    report = correct(correction, Output(str(tmp_path / "out")), correction.plan(), workshop)
    assert sum(map(sum, report["moves"]["contradicted"])) == report["contradicted"]["of"]
    stayed = sum(row[place] for place, row in enumerate(report["moves"]["contradicted"]))
    changed = report["contradicted"]["of"] - stayed
    assert changed == report["contradicted"]["part"] == report["beside_models"]["changed"]["cases"]
    assert report["beside_models"]["divided"]["cases"] > 0
    page = (tmp_path / "out/report.html").read_bytes()
    for frame in assert_legible(browser, page, tmp_path / "browser"):
        assert frame["title"].endswith("round \u00b7 relabelled")
        assert HOSTILE in frame["text"]
        for heading in ("How many labels changed", "What the models gain", "By market", "People are divided"):
            assert heading in frame["text"]
        assert f"{changed} of {report['contradicted']['of']}" in frame["text"]
        assert frame["verdict_bottom"] < 400
