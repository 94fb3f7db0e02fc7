"""Engines that die: Ray replaces them, nothing is lost, and a shard that kills them is given up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from cluster.commit import Output, read_job_manifest
from relevance.engines.interface import LabelScores, TokenBatch
from relevance.engines.label_model import LabelModel, open_label_model
from relevance.engines.settings import EngineSettings
from relevance.scoring.day import score_day
from relevance.scoring.label_store import LabelStore
from relevance.scoring.run import ScoringRun, ScoringSettings, open_run
from tests.builders.fakes import DyingEngine, FakeEngine, load_fake_engine, load_overflowing_engine
from tests.builders.pairs_data import make_pairs, read_committed, read_visible, write_pairs
from tests.conftest import PROJECT

pytestmark = pytest.mark.usefixtures("local_ray")
FATAL = "q7"
NUM_PAIRS = 200


@dataclass(frozen=True)
class DyingLoader:
    """Loads an engine that dies on the query of one pair."""

    marks: str
    deaths: int
    kill: bool
    fatal_text: str

    def __call__(self, settings: EngineSettings, model: LabelModel, label_ids: tuple[int, ...]) -> DyingEngine:
        (tokens,) = model.encoder().encode_queries([f"\n\nQuery: {self.fatal_text}"])
        return DyingEngine(tuple(tokens), Path(self.marks), self.deaths, self.kill)


class BrokenEngine:
    """Fails on everything."""

    def label_logprobs(self, batch: object) -> None:
        raise RuntimeError("no kernel image is available")


def load_broken_engine(settings: EngineSettings, model: LabelModel, label_ids: tuple[int, ...]) -> BrokenEngine:
    return BrokenEngine()


@pytest.fixture
def day(tmp_path: Path, tiny_model: Path) -> ScoringRun:
    write_pairs(make_pairs(NUM_PAIRS), str(tmp_path / "pairs"))
    settings = ScoringSettings(shard_rows=20, max_poisoned_fraction=0.15)
    model = open_label_model(str(tiny_model), None, quantization="none", cache_dir=str(tmp_path))
    return open_run(str(tmp_path / "pairs"), str(tmp_path / "scores"), model, settings)


def _dying(tmp_path: Path, *, deaths: int, kill: bool) -> DyingLoader:
    (tmp_path / "marks").mkdir()
    fatal = next(row["query"] for row in make_pairs(NUM_PAIRS).to_pylist() if row["query_id"] == FATAL)
    return DyingLoader(str(tmp_path / "marks"), deaths, kill, fatal)


@pytest.mark.parametrize(
    "kill", [pytest.param(False, marks=pytest.mark.slow, id="exception"), pytest.param(True, id="SIGKILL")]
)
def test_an_engine_that_dies_in_mid_shard_is_replaced(
    day: ScoringRun, tmp_path: Path, tiny_model: Path, kill: bool
) -> None:
    score_day(day, load=_dying(tmp_path, deaths=1, kill=kill))
    calm = open_run(day.input, str(tmp_path / "calm"), day.model, day.settings)
    score_day(calm, load=load_fake_engine)
    assert len(list((tmp_path / "marks").iterdir())) == 1
    assert read_committed(day.output.url) == read_committed(calm.output.url)


def test_a_shard_that_always_kills_is_given_up_and_the_rest_committed(day: ScoringRun, tmp_path: Path) -> None:
    scored = score_day(day, load=_dying(tmp_path, deaths=10**6, kill=False))
    manifest = read_job_manifest(day.output.url)
    (poisoned,) = manifest["figures"]["poisoned_shards"]
    rows = read_committed(day.output.url)
    failed = [row for row in rows if row["error"]]
    assert len(rows) == NUM_PAIRS
    assert {row["error"] for row in failed} == {"engine: died 3 times on this shard, last: MemoryError"}
    assert FATAL in {row["query_id"] for row in failed}
    assert 0 < len(failed) == scored.figures["counts"]["poisoned"] < NUM_PAIRS
    assert scored.figures["counts"]["labelled"] == NUM_PAIRS - len(failed)
    assert poisoned.isdigit()


@pytest.mark.slow
def test_a_day_with_shards_given_up_is_done_again_where_it_may_be_replaced(day: ScoringRun, tmp_path: Path) -> None:
    score_day(day, load=_dying(tmp_path, deaths=10**6, kill=False))
    spoilt = {(row["query_id"], row["product_id"]) for row in read_committed(day.output.url) if row["error"]}
    assert score_day(day, load=load_fake_engine).already_done, "a day is not done anew unasked"

    again = score_day(day, load=load_fake_engine, replace_other=True)
    rows = read_committed(day.output.url)
    assert not again.already_done
    assert again.figures["counts"]["labelled"] == len(spoilt), "the other labels are known"
    assert len(rows) == NUM_PAIRS
    assert [row["error"] for row in rows if row["error"]] == []
    for replace_other in (False, True):
        assert score_day(day, load=load_broken_engine, replace_other=replace_other).already_done


@pytest.mark.slow
def test_an_engine_that_works_nowhere_fails_the_job(tmp_path: Path, tiny_model: Path) -> None:
    write_pairs(make_pairs(40), str(tmp_path / "pairs"))
    model = open_label_model(str(tiny_model), None, quantization="none", cache_dir=str(tmp_path))
    settings = ScoringSettings(shard_rows=20, max_deaths_per_shard=1)
    run = open_run(str(tmp_path / "pairs"), str(tmp_path / "scores"), model, settings)
    with pytest.raises(RuntimeError, match=r"gave up 2 of 2 shards.*engine: died 1 times .* last: RuntimeError"):
        score_day(run, load=load_broken_engine)
    assert read_visible(run.output.url) == []
    score_day(run, load=load_fake_engine)  # the driver is repaired, the same run goes on
    assert len(read_committed(run.output.url)) == 40


def test_numbers_that_are_none_fail_the_day_and_are_not_there_the_next(day: ScoringRun, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows have errors.*probabilities are not finite"):
        score_day(day, load=load_overflowing_engine)
    assert read_visible(day.output.url) == []
    mended = replace(day, output=Output(day.output.url), store=LabelStore(str(tmp_path / "store"), "of another"))
    assert score_day(mended, load=load_fake_engine).figures["counts"]["failed"] == 0, "the same day, an engine mended"
    day = open_run(day.input, str(tmp_path / "tolerant"), day.model, day.settings)
    tolerant = day.settings.model_copy(update={"max_failed_fraction": 0.5})
    spoilt = score_day(replace(day, settings=tolerant), load=load_overflowing_engine)
    count = spoilt.figures["counts"]["not_finite"]
    assert 0 < count == sum(row["label"] is None for row in read_committed(day.output.url))
    counts = score_day(day, load=load_fake_engine, replace_other=True).figures["counts"]
    assert counts["failed"] == 0
    assert counts["labelled"] == count - counts["ignored"]
    assert all(0 <= row["p_exact"] <= 1 for row in read_committed(day.output.url))


def load_nothing(settings: EngineSettings, model: LabelModel, label_ids: tuple[int, ...]) -> BrokenEngine:
    raise OSError("CUDA driver version is insufficient\nCompile with TORCH_USE_CUDA_DSA")


def test_what_a_library_raises_at_an_engines_start_is_told_in_its_first_line(day: ScoringRun) -> None:
    with pytest.raises(RuntimeError) as raised:
        score_day(day, load=load_nothing)
    # Ray puts its own exception around it; `run_job` prints the cause.
    cause = getattr(raised.value, "cause", raised.value)
    assert str(cause) == "a worker cannot start: OSError: CUDA driver version is insufficient"


def test_what_an_engine_refuses_at_its_start_is_one_sentence_in_the_terminal(
    tmp_path: Path, tiny_model: Path, local_ray: str
) -> None:
    write_pairs(make_pairs(20), str(tmp_path / "pairs"))
    settings = [f"input={tmp_path}/pairs", f"output={tmp_path}/scores", f"model={tiny_model}"]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.relevance_score", *settings, "scoring.quantization=fp8"],
        cwd=PROJECT,
        env=os.environ | {"RAY_ADDRESS": local_ray},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: FP8 needs a GPU of compute capability 8.9"), done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 6, done.stderr


class SlowEngine(FakeEngine):
    """Takes its time, so that the steps beside it are ahead of it."""

    def label_logprobs(self, batch: TokenBatch) -> LabelScores:
        time.sleep(0.5)
        return super().label_logprobs(batch)


def load_slow_engine(settings: EngineSettings, model: LabelModel, label_ids: tuple[int, ...]) -> SlowEngine:
    return SlowEngine()


@pytest.mark.slow
def test_the_time_that_engines_wait_is_a_figure_of_the_run(day: ScoringRun) -> None:
    scored = score_day(day, load=load_slow_engine).figures
    assert scored["engine_seconds"] >= NUM_PAIRS // 20 * 0.5
    assert 0 < scored["waiting_seconds"] < scored["seconds"] - scored["engine_seconds"]
    assert scored["gpu_seconds"] == 0, "there is no GPU here to be asked"


@dataclass(frozen=True)
class CounterKiller:
    """Loads an engine that kills the process which counts deaths, once."""

    mark: str

    def __call__(self, settings: EngineSettings, model: LabelModel, label_ids: tuple[int, ...]) -> FakeEngine:
        mark = Path(self.mark)

        class Killing(FakeEngine):
            def label_logprobs(self, batch: TokenBatch) -> LabelScores:
                if not mark.exists():
                    siblings = psutil.Process(os.getppid()).children()  # of this Ray alone
                    counters = [one for one in siblings if _counts(one.cmdline())]
                    mark.write_text(str(len(counters)))
                    for one in counters:
                        one.kill()
                return super().label_logprobs(batch)

        return Killing()


def _counts(command_line: list[str] | None) -> bool:
    return bool(command_line) and command_line[0].startswith("ray::DeathCounter")


@pytest.mark.slow
def test_the_count_of_deaths_may_die_itself(day: ScoringRun, tmp_path: Path) -> None:
    scored = score_day(day, load=CounterKiller(str(tmp_path / "mark")))
    assert int((tmp_path / "mark").read_text()) >= 1
    assert scored.figures["counts"]["labelled"] == NUM_PAIRS
