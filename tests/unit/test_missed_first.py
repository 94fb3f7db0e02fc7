"""What a job of the model's life cycle reads late, and what it would pay for: missed before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from cancellation.comparison.llm_judge import LlmRowSettings
from cancellation.comparison.run import Comparison, ComparisonSettings, run_comparison
from cancellation.events.table import write_labelled
from cancellation.llm.backends import BackendSettings, LocalSettings
from cancellation.simulation.simulator import SimulationSettings, simulate
from cancellation.training.run import TrainingSettings
from cluster.launch import run_job
from cluster.settings import Settings
from cluster.tracking import TrackingSettings, tracked_run
from cluster.training.train import TrainerSettings
from jobs import (
    cancellation_calibrate,
    cancellation_compare,
    cancellation_consistency,
    cancellation_label,
    cancellation_new_market,
    cancellation_relabel,
    cancellation_train,
)
from tests.conftest import PROJECT


class Job:
    def __init__(self, module: object, settings: type[Settings], *arguments: str) -> None:
        self._module, self._settings, self._arguments = module, settings, arguments

    def status(self, *arguments: str) -> int:
        """Of the job with its own defaults, as on the command line."""
        defaults = Path(str(self._module.__file__)).with_suffix(".toml")  # type: ignore[attr-defined]
        main = self._module.main  # type: ignore[attr-defined]
        try:
            run_job(main, self._settings, defaults=defaults, arguments=[*self._arguments, *arguments])
        except SystemExit as left:
            return int(left.code or 0)
        return 0


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.delenv("VERDICTS_PERSON_KEY_FILE", raising=False)


@pytest.fixture
def events(tmp_path: Path) -> str:
    write_labelled(str(tmp_path / "events.jsonl"), list(simulate(SimulationSettings(num_events=5), 1)))
    return f"{tmp_path}/events.jsonl"


SERVER = ("backend.kind=endpoint", "backend.endpoint.base_url=http://127.0.0.1:9/v1")
"""Nobody listens there: who asks it would fail for that."""
RETRIEVAL = ("labelling.retrieval.examples=EVENTS",)


@pytest.mark.parametrize("flags", [(), ("--estimate",), ("--dry-run",)])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SERVER, "labelling.retrieval.examples=GONE"), "labelling.retrieval.examples=GONE: nothing is at GONE"),
        (
            (*SERVER, "labelling.retrieval.examples=EVENTS", "labelling.retrieval.encoder=/gone/encoder"),
            "/gone/encoder",
        ),
        (("backend.local.model=/gone/model",), "/gone/model"),
        (("backend.local.model=relevance/small_model", "backend.local.adapter=/gone/adapter"), "/gone/adapter"),
    ],
)
def test_labelling_misses_what_it_needs_first(
    flags: tuple[str, ...],
    arguments: tuple[str, ...],
    said: str,
    events: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone = str(tmp_path / "gone")
    named = [one.replace("GONE", gone).replace("EVENTS", events) for one in arguments]
    job = Job(cancellation_label, cancellation_label.LabelJob, f"input={events}", f"output={tmp_path}/out")
    assert job.status(*named, *flags) == 2
    assert said.replace("GONE", gone) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_not_asked_need_not_be_there(events: str, tmp_path: Path) -> None:
    gone = ("backend.local.model=/gone/model", "labelling.retrieval.encoder=/gone/encoder")
    label = Job(cancellation_label, cancellation_label.LabelJob, f"input={events}", f"output={tmp_path}/out")
    assert label.status(*SERVER, *gone, "--dry-run") == 0
    consistency = Job(cancellation_consistency, cancellation_consistency.ConsistencyJob, f"input={events}")
    assert consistency.status(f"output={tmp_path}/out", *gone, "repeat=false", "--dry-run") == 0
    relabel = Job(cancellation_relabel, cancellation_relabel.RelabelJob, f"input={events}", f"round={tmp_path}/1")
    assert relabel.status("monitoring=/gone/days", f"work={tmp_path}/work", "--dry-run") == 0


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_a_round_misses_days_and_key_before_models_are_taught(
    flags: tuple[str, ...], events: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = (f"input={events}", f"round={tmp_path}/1", f"work={tmp_path}/work")
    relabel = Job(cancellation_relabel, cancellation_relabel.RelabelJob, *places, *flags)
    assert relabel.status(f"archive={tmp_path}", f"monitoring={tmp_path}/days") == 2
    assert f"monitoring={tmp_path}/days: monitoring {tmp_path}/days: expected days/ of" in capsys.readouterr().err
    calibrate = Job(
        cancellation_calibrate, cancellation_calibrate.CalibrateJob, f"input={events}", f"output={tmp_path}/c", *flags
    )
    for job in (relabel, calibrate):
        assert job.status(f"person_key_file={tmp_path}/gone.key") == 2
        assert f"person_key_file={tmp_path}/gone.key: person key {tmp_path}/gone.key: cannot" in capsys.readouterr().err
        assert job.status("person_key_file=s3://bucket/person.key") == 2
        found = "person_key_file: value error, expected a path on the disk of the machine that the job runs on"
        assert f"{found}, found s3://bucket/person.key" in capsys.readouterr().err


def test_checkpoints_of_this_process_lie_on_this_machine(
    events: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = (f"input={events}", f"round={tmp_path}/1", f"work={tmp_path}/work")
    relabel = Job(cancellation_relabel, cancellation_relabel.RelabelJob, *places)
    assert relabel.status("trainer.checkpoints=s3://bucket/checkpoints", "--dry-run") == 2
    assert "trainer: value error, checkpoints: expected a local folder" in capsys.readouterr().err


def test_a_comparison_misses_the_model_of_its_last_row_before_it_makes_the_first(tmp_path: Path) -> None:
    tracking = TrackingSettings(off=True)
    llm = LlmRowSettings(backend=BackendSettings(local=LocalSettings(model="/gone/model")))
    names = {"approaches": ("rules", "LLM zero-shot"), "num_events": 20, "speed_events": 0, "resamples": 20}
    settings = ComparisonSettings(**names, llm=llm)
    comparison = Comparison(settings, TrainingSettings(), TrainerSettings(), tracking, tmp_path, str(tmp_path))
    with (
        tracked_run("compare", settings, tracking) as run,
        pytest.raises(ValueError, match="/gone/model"),
    ):
        run_comparison(comparison, run)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("market=co", "market: two capital letters such as CO are expected, found 'co'"),
        ("language=", "language: a BCP 47 tag such as es is expected, found ''"),
        ("language=Spanish_please", "language: a BCP 47 tag such as es is expected"),
        ("market=BR", "language: expected pt, which the policy has for BR, found es; give that one"),
    ],
)
def test_a_new_market_is_named_well_before_it_is_taught(
    given: str, said: str, events: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = (
        f"labelled={events}",
        f"old_labelled={events}",
        f"output={tmp_path}/out",
        "model=cancellation/small_model",
    )
    job = Job(cancellation_new_market, cancellation_new_market.NewMarketJob, "market=CO", "language=es", *places)
    assert job.status(given) == 2
    assert said in capsys.readouterr().err


def test_a_default_output_that_a_job_does_not_write_need_not_be_writable(
    events: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a working directory that is read-only: the image's, say."""
    (tmp_path / "var").write_text("no folder")
    monkeypatch.chdir(tmp_path)
    model, far = f"{PROJECT}/cancellation/small_model", f"output={tmp_path}/out"
    jobs = [
        (cancellation_train, "TrainJob", (f"profile_of={model}", far)),
        (cancellation_relabel, "RelabelJob", (*_ROUND, f"answers={events}", "retrain=false", far)),
        (cancellation_relabel, "RelabelJob", (*_ROUND, 'judges.kinds=["trees","llm"]', f"judges.llm={events}")),
        (
            cancellation_compare,
            "CompareJob",
            ('comparison.approaches=["rules","shipped"]', 'comparison.sets={"ours":"EVENTS"}', far),
        ),
    ]
    for module, name, arguments in jobs:
        named = [one.replace("EVENTS", events).replace("FOLDER", str(tmp_path)) for one in arguments]
        assert Job(module, getattr(module, name), *named).status("--dry-run") == 0


_ROUND = ("input=EVENTS", "round=FOLDER/1", "judges.training.start=null")
