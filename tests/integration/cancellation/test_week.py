"""A week of verdicts and what comes of it: one chain of the real parts, in which no link may drop a row.

Events go over HTTP to the endpoint as `jobs.cancellation_serve` starts it; its log is shipped and put together, and
each day is monitored, by the commands of `cancellation/schedule.toml`. On Sunday sellers appeal. The round of
relabelling and the training that the monitor then advises run by the commands that it printed; the new model judges
the week anew.

An endpoint has only the machine's clock, so all of it is one day to it. `tests.builders.monitored_days.Calendar` gives
the records of its log the dates of a week between its disk and the shipper, and changes nothing else. Networks and
rounds are as small as they can be: what is proven is that the links fit, not that the new model is good.
"""

from __future__ import annotations

import importlib
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from cancellation.events.event import event_mapping, parse_event
from cancellation.events.factors import VERDICTS
from cancellation.events.table import write_labelled
from cancellation.features.profile import load_profile
from cancellation.relabelling.cases import read_cases
from cancellation.scoring.run import read_verdicts
from cancellation.serving.records.shipped_log import read_log
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster.schedule.plan import commands, find_flow, load_schedule
from cluster.settings import Settings, load_settings
from jobs.cancellation_compact import CompactJob
from jobs.cancellation_monitor import MonitorJob
from jobs.cancellation_relabel import RelabelJob
from jobs.cancellation_score import ScoreJob
from jobs.cancellation_train import TrainJob
from tests.builders.monitored_days import DAY, Calendar
from tests.builders.reviewers import answer_round
from tests.conftest import PROJECT
from tests.servers.serving_process import Served, served

# The week is the set-up of the first test; each of its links has tests of its own, which are not slow.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

JOBS: dict[str, type[Settings]] = {
    "jobs.cancellation_compact": CompactJob,
    "jobs.cancellation_monitor": MonitorJob,
    "jobs.cancellation_relabel": RelabelJob,
    "jobs.cancellation_score": ScoreJob,
    "jobs.cancellation_train": TrainJob,
}
WEEK = [DAY - timedelta(days=back) for back in range(6, -1, -1)]
MONDAY, WEDNESDAY, THURSDAY, SUNDAY = WEEK[0], WEEK[2], WEEK[3], WEEK[6]
A_DAY = 72
"""Events: three an hour, of which chance leaves three hours in a row empty on less than one day in a hundred."""
SILENT = {THURSDAY: [13, 14, 15]}
MARKETS = ("BR", "ID")

TRAFFIC = list(simulate(SimulationSettings(num_events=7 * A_DAY, split="all", markets=MARKETS, label_noise=0.0), 77))
LABELLED = list(simulate(SimulationSettings(num_events=360, markets=MARKETS, label_noise=0.1), 21))
TRUTH = {one.event.event_id: one for one in [*TRAFFIC, *LABELLED]}
BY_DAY = {day: TRAFFIC[place * A_DAY : (place + 1) * A_DAY] for place, day in enumerate(WEEK)}

PATIENT = [
    # Tests share their machine: nothing is refused for being slow.
    *(f"serving.admission.{name}=60000" for name in ("max_loop_lag_ms", "max_queue_age_ms", "standing_ms")),
    *("serving.deadlines.default_ms=30000", "serving.deadlines.batch_ms=30000", "serving.deadlines.model_ms=20000"),
    *("serving.model.hung_seconds=20", "serving.decision_log.segment_seconds=3600"),
]
TINY = """
name = "tiny"
vocab_size = 600
max_tokens = 48
shape = { hidden_size = 16, num_layers = 1, num_heads = 1, intermediate_size = 16 }
fusion = { hidden_size = 16, num_heads = 1 }
loop = { steps_per_validation = 5, batch_size = 32, bf16 = false, learning_rate = 0.005 }
"""
SMALL_ROUND = f"""
ask.test_cases = 20
judges.folds = 2
judges.trees.max_iter = 10
[judges.training]{TINY}"""


@dataclass
class Week:
    """What was answered and said, and what the days' reports make of it."""

    root: Path
    verdicts: dict[date, list[dict[str, Any]]] = field(default_factory=dict)
    shipped: dict[date, dict[str, int]] = field(default_factory=dict)
    rejected: str = ""
    """By operations, on Wednesday."""
    overturned: str = ""
    """On Sunday; operations had confirmed it."""
    upheld: str = ""

    @property
    def archive(self) -> Path:
        return self.root / "serving" / "archive"

    def report(self, day: date, name: str = "report.json") -> dict[str, Any]:
        return json.loads((self.root / "cancellation" / "monitoring" / str(day) / name).read_text())

    def wrong_and_right(self) -> tuple[list[str], list[str]]:
        """Events that the model held for induced so far, with something that followed from it."""
        flagged = [
            one["event_id"]
            for day in self.verdicts.values()
            for one in day
            if one["verdict"] == "induced" and one["action"] != "none"
        ]
        right = [name for name in flagged if TRUTH[name].true_label == "induced"]
        return [name for name in flagged if name not in right], right


def run(words: Sequence[str], *more: str) -> None:
    """Run a job by its command line, in this process."""
    module, cls = importlib.import_module(words[1]), JOBS[words[1]]
    arguments = [*words[2:], *more]
    module.main(load_settings(cls, arguments, defaults=Path(module.__file__).with_suffix(".toml")))


def scheduled(root: Path, flow: str, step: str, day: date) -> tuple[str, ...]:
    """Give the command of a step as the schedule that ships has it."""
    values = {"root": str(root), "model": str(PROJECT / "cancellation" / "small_model")}
    schedule = load_schedule(PROJECT / "cancellation" / "schedule.toml", values)
    return next(one.words for one in commands(schedule, find_flow(schedule, flow), day) if one.step == step)


def judge_a_day(endpoint: Served, day: date) -> list[dict[str, Any]]:
    """Send two thirds of the events one by one, one of them twice, and the others as a batch."""
    events = [event_mapping(one.event, one.utc_offset_hours) for one in BY_DAY[day]]
    alone, together = events[: A_DAY * 2 // 3], events[A_DAY * 2 // 3 :]
    answers = [endpoint.judge(event) for event in alone]
    again = endpoint.judge(alone[0])
    assert (again.headers["x-repeated"], again.content) == ("1", answers[0].content)
    found = [answer.json() for answer in answers]
    batch = endpoint.http.post("/v1/verdicts:batch", json={"events": together}).json()
    found += [result["verdict"] for result in batch["results"]]
    assert [one["event_id"] for one in found] == [event["event_id"] for event in events]
    assert {one["source"] for one in found} == {"model"}
    return found


def review(endpoint: Served, week: Week) -> None:
    """Operations look at five verdicts: three are right, one is wrong; of one they do not see that it is."""
    wrong, right = week.wrong_and_right()
    week.rejected, week.overturned, week.upheld = wrong[0], wrong[1], right[3]
    said = [(name, "confirmed", None) for name in [*right[:3], week.overturned]]
    for name, outcome, label in [*said, (week.rejected, "rejected", TRUTH[week.rejected].true_label)]:
        message = {"event_id": name, "outcome": outcome, "reviewer": "ops-1", **({"label": label} if label else {})}
        assert endpoint.http.post("/v1/feedback", json=message).status_code == 202


def appeal(endpoint: Served, week: Week) -> None:
    """Two sellers object; one is right."""
    for name, state, decision in (
        (week.overturned, "overturned", {"step": "overturn", "label": TRUTH[week.overturned].true_label}),
        (week.upheld, "upheld", {"step": "uphold"}),
    ):
        words = {"event_id": name, "seller_id": TRUTH[name].event.seller_id, "reason": "I never asked for it."}
        opened = endpoint.http.post("/v1/appeals", json=words)
        assert opened.status_code == 201, opened.text
        case = f"/v1/reviews/{opened.json()['appeal_id']}"
        assert endpoint.http.post(case, json={"step": "take", "reviewer": "ops-2"}).status_code == 200
        decided = endpoint.http.post(case, json={**decision, "reviewer": "ops-2", "reason": "The chat says so."})
        assert (decided.status_code, decided.json()["state"]) == (200, state)


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory, local_ray: str) -> Week:
    """Seven days, each shipped, put together and monitored before the next begins."""
    folder = tmp_path_factory.mktemp("week")
    week = Week(folder / "root")
    with served(folder, output="null", environment={}, settings=PATIENT) as endpoint:
        calendar = Calendar(folder / "data" / "log", folder / "dated", week.archive)
        for day in WEEK:
            week.verdicts[day] = judge_a_day(endpoint, day)
            if day == WEDNESDAY:
                review(endpoint, week)
            if day == SUNDAY:
                appeal(endpoint, week)
            week.shipped[day] = calendar.ship(day, skip=SILENT.get(day, ()))
            run(scheduled(week.root, "daily", "compact", day))
            run(scheduled(week.root, "daily", "monitor", day), "monitor.triggers.wrong_predictions=2")
    return week


def printed(week: Week, name: str) -> list[str]:
    """Give a command that Sunday's monitor printed, without the interpreter."""
    return shlex.split(week.report(SUNDAY, "retrain.json")[name])[1:]


@pytest.fixture(scope="module")
def corrected(week: Week, local_ray: str) -> Path:
    """The round that the monitor advised, answered; gives the folder of the labels."""
    write_labelled(str(week.root / "labelled" / "labelled.jsonl"), LABELLED)
    (week.root / "round.toml").write_text(SMALL_ROUND)
    filled_in = {"LABELLED": week.root / "labelled", "PERSON_KEY": week.root.parent / "data" / "person.key"}
    words = printed(week, "relabel")
    for name, value in filled_in.items():
        words = [word.replace(name, str(value)) for word in words]
    places = [f"round={week.root / 'round'}", f"work={week.root / 'work'}", str(week.root / "round.toml")]
    more = [*places, "trainer.num_workers=0", f"trainer.checkpoints={week.root / 'checkpoints'}"]
    run(words, *more)
    answer_round(week.root / "round", TRUTH, week.root / "exports")
    run(words, *more, f"answers={week.root / 'exports'}", f"output={week.root / 'relabelled'}", "retrain=false")
    return week.root / "relabelled"


@pytest.fixture(scope="module")
def model(week: Week, corrected: Path) -> Path:
    """The training that the monitor advised, on the corrected labels; gives the model's folder."""
    (week.root / "tiny.toml").write_text(f"[training]{TINY}")
    words = [word.replace("LABELLED", str(corrected / "labelled")) for word in printed(week, "command")]
    words = [word for word in words if not word.endswith(".toml")]  # what it goes on from is not part of the project
    places = [f"output={week.root / 'next'}", f"trainer.checkpoints={week.root / 'training'}", "trainer.num_workers=0"]
    run(words, *places, str(week.root / "tiny.toml"))
    return week.root / "next"


def test_every_answer_is_in_the_archive_once_on_its_day(week: Week) -> None:
    logged = read_log(str(week.archive / "decisions"), columns=("event_id", "received_at", "verdict", "action"))
    rows = {row["event_id"]: row for row in logged.to_pylist()}
    assert logged.num_rows == len(rows) == len(TRAFFIC)
    for day, verdicts in week.verdicts.items():
        assert week.shipped[day]["decisions"] == A_DAY
        for one in verdicts:
            row = rows[one["event_id"]]
            assert (row["received_at"].date(), row["verdict"], row["action"]) == (day, one["verdict"], one["action"])
    files = [path for path in (week.archive / "decisions").rglob("*.parquet") if "day=" in str(path)]
    assert len(files) == len(WEEK) * len(MARKETS)


def test_each_days_report_counts_what_was_answered(week: Week) -> None:
    for day, verdicts in week.verdicts.items():
        report = week.report(day)
        figures = report["figures"]
        assert figures["decisions"] == A_DAY
        for market in MARKETS:
            own = [one for one in verdicts if one["market"] == market]
            assert figures[f"decisions.{market}"] == len(own)
            induced = sum(one["verdict"] == "induced" for one in own)
            assert figures[f"share.induced.{market}"] == pytest.approx(induced / len(own))
        penalties = sum(one["action"] == "penalty" for one in verdicts)
        assert figures["share.penalty"] == pytest.approx(penalties / A_DAY)
        assert figures["share.fallback"] == 0
        assert report["compared_with"] == [str(earlier) for earlier in WEEK if earlier < day]
        assert report["hours_missing"] == ({"all markets": SILENT[day]} if day in SILENT else {})


def test_the_log_has_no_fault_but_those_that_happened(week: Week) -> None:
    said = {
        THURSDAY: ["all markets: nothing from 13:00 to 16:00 UTC"],
        SUNDAY: ["feedback: 1 message against what was said of the event before"],
    }
    for day in WEEK:
        found = [one["text"] for one in week.report(day)["findings"] if one["subject"] == "log"]
        assert found == said.get(day, [])


def test_the_appeal_that_was_granted_is_a_confirmed_wrong_prediction(week: Week) -> None:
    reviewed = {
        day: (week.report(day)["precision"]["all"]["reviewed"], week.report(day)["precision"]["all"]["right"])
        for day in WEEK
    }
    assert reviewed == {**dict.fromkeys(WEEK, (0, 0)), WEDNESDAY: (5, 4), SUNDAY: (2, 1)}
    assert [sum(week.report(day)["appeals"].values()) for day in WEEK] == [0, 0, 0, 0, 0, 0, 2]
    fired = {day: week.report(day, "retrain.json") for day in WEEK}
    assert [fired[day]["retrain"] for day in WEEK] == [False] * 6 + [True]
    version = fired[SUNDAY]["model_version"]
    wrong = {
        day: next(one["reason"] for one in fired[day]["triggers"] if one["name"] == "wrong_predictions") for day in WEEK
    }
    counts = dict(zip(WEEK, (0, 0, 1, 1, 1, 1, 2), strict=True))
    assert wrong == {day: f"{n} of 2 confirmed wrong predictions of {version}" for day, n in counts.items()}
    page = (week.root / "cancellation" / "monitoring" / str(SUNDAY) / "report.html").read_text()
    assert wrong[SUNDAY] in page
    assert "2 appeals" in page
    (reversal,) = ds.dataset(week.archive / "reversals", partitioning=None).to_table().to_pylist()
    assert reversal["event_id"] == week.overturned
    assert (reversal["received_at"].date(), reversal["decided_at"].date()) == (SUNDAY, _day_of(week.overturned))
    assert week.shipped[SUNDAY] == {
        **dict.fromkeys(week.shipped[SUNDAY], 0),
        "decisions": A_DAY,
        "feedback": 4,
        "appeals": 6,
        "reversals": 1,
    }


def _day_of(event_id: str) -> date:
    return next(day for day, events in BY_DAY.items() if event_id in {one.event.event_id for one in events})


def test_the_printed_round_is_the_scheduled_one(week: Week) -> None:
    weekly = {*scheduled(week.root, "weekly", "relabel", SUNDAY)}
    differing = ("input=", "round=", "person_key_file=", "tasks.annotators=")  # a place's own
    assert {word for word in printed(week, "relabel") if not word.startswith(differing)} == {
        word for word in weekly if not word.startswith(differing)
    }


def test_the_round_asks_about_both_rejected_verdicts_and_corrects_them(week: Week, corrected: Path) -> None:
    manifest, cases = read_cases(str(week.root / "round"))
    asked = sorted((case for case in cases.values() if case.why == "rejected"), key=lambda case: case.rank)
    assert [case.event.event_id for case in asked] == [week.overturned, week.rejected]
    assert manifest["asked"]["rejected"] == 2
    assert sum(manifest["asked"].values()) == len(cases)
    report = json.loads((corrected / "report.json").read_text())
    assert (report["answered"], report["open"]) == (len(cases), 0)
    assert (report["rejected"]["part"], report["rejected"]["of"]) == (2, 2)

    rows = _labelled(corrected, "corrected")
    assert [row["event"]["event_id"] for row in rows] == [one.event.event_id for one in LABELLED]
    for row in rows:
        one = TRUTH[row["event"]["event_id"]]
        assert row["label"] == (one.true_label if one.event.event_id in cases else one.label)
    new = {row["event"]["event_id"]: row for row in _labelled(corrected, "rejected")}
    version = week.report(SUNDAY, "retrain.json")["model_version"]
    assert {name: row["label"] for name, row in new.items()} == {
        name: TRUTH[name].true_label for name in (week.overturned, week.rejected)
    }
    for row in new.values():
        assert [(said["label"], said["by"]) for said in row["label_history"][:1]] == [("induced", f"model {version}")]
        event, sent = parse_event(row["event"]), TRUTH[row["event"]["event_id"]].event
        assert [message.at for message in event.chat] == [message.at for message in sent.chat]
        assert (event.cancelled_at, event.market, event.order) == (sent.cancelled_at, sent.market, sent.order)


def _labelled(corrected: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (corrected / "labelled" / f"{name}.jsonl").read_text().splitlines()]


def test_the_new_model_learnt_from_every_label_and_judges_the_week(week: Week, corrected: Path, model: Path) -> None:
    taught = [row["label"] for name in ("corrected", "rejected") for row in _labelled(corrected, name)]
    encoded = (week.root / "training" / "cancellation-events").rglob("*.arrow")
    tables = {path: pa.ipc.open_file(path).read_all() for path in encoded}
    labels = [VERDICTS[label] for table in tables.values() for label in table["label"].to_pylist()]
    assert Counter(labels) == Counter(taught)
    training = sum(table.num_rows for path, table in tables.items() if path.name.startswith("training"))
    assert load_profile(str(model / "profile.json")).num_events == training

    write_labelled(str(week.root / "judged_again.jsonl"), TRAFFIC)
    places = f"input={week.root / 'judged_again.jsonl'}", f"output={week.root / 'verdicts'}", f"model={model}"
    run(("-m", "jobs.cancellation_score"), *places, "scoring.max_actors=1")
    verdicts = read_verdicts(str(week.root / "verdicts")).to_pylist()
    assert [row["event_id"] for row in verdicts] == [one.event.event_id for one in TRAFFIC]
    assert {row["error"] for row in verdicts} == {None}
    assert "penalty" not in {row["action"] for row in verdicts}  # the policy's proof is of the model before
    assert len({row["model_version"] for row in verdicts}) == 1
    assert verdicts[0]["model_version"].startswith("tiny@")
    assert len({round(row["score"], 6) for row in verdicts}) > 1
