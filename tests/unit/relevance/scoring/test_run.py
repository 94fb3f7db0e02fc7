from pathlib import Path

import pytest

from relevance.engines.label_model import open_label_model
from relevance.engines.settings import VllmSettings
from relevance.scoring.run import ScoringRun, ScoringSettings, make_plan, open_run, output_url


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> ScoringRun:
    model = open_label_model(str(tiny_model), None, quantization="none", cache_dir=str(tmp_path))
    return open_run("pairs/ds=2026-11-22", str(tmp_path / "scores"), model, ScoringSettings())


def test_a_days_partition_keeps_its_name(run: ScoringRun) -> None:
    assert output_url("s3://b/pairs/ds=2026-11-22/", "s3://b/scores") == "s3://b/scores/ds=2026-11-22"
    assert output_url("s3://b/pairs.csv", "s3://b/scores/") == "s3://b/scores"
    assert run.output.url.endswith("scores/ds=2026-11-22")
    assert run.store.url.endswith("scores/_label_store")
    assert run.input == f"{Path.cwd()}/pairs/ds=2026-11-22"


def test_the_identity_follows_model_prompt_and_quantisation(run: ScoringRun, tiny_model: Path, tmp_path: Path) -> None:
    model = open_label_model(str(tiny_model), None, quantization="int8", cache_dir=str(tmp_path))
    assert open_run("p", "s", model, ScoringSettings()).fingerprint != run.fingerprint
    settings = ScoringSettings(shard_rows=7, max_actors=9)
    assert open_run("p", "s", run.model, settings).fingerprint == run.fingerprint


@pytest.mark.parametrize(
    "other",
    [
        {"engine": "vllm"},
        {"dtype": "bfloat16"},
        {"dtype": "float16"},
        {"label_mass": False},
        {"gpus_per_actor": 1.0},  # bfloat16 there, if nothing else is said
    ],
)
def test_engines_that_round_differently_share_no_labels(run: ScoringRun, other: dict[str, object]) -> None:
    changed = open_run("pairs/ds=2026-11-22", "s", run.model, ScoringSettings(**other))
    assert changed.fingerprint != run.fingerprint
    plans = [make_plan(one, []) for one in (run, changed)]
    assert {name for name in plans[0] if plans[0][name] != plans[1][name]} >= {"fingerprint", *other} - {
        "gpus_per_actor"
    }


def test_all_engines_of_a_run_get_the_precision_that_the_fingerprint_names(run: ScoringRun) -> None:
    assert run.settings.dtype == "float32"
    same = open_run("p", "s", run.model, ScoringSettings(dtype="float32"))
    assert same.fingerprint == run.fingerprint
    assert open_run("p", "s", run.model, ScoringSettings(gpus_per_actor=0.5)).settings.dtype == "bfloat16"


def test_vllm_is_given_the_length_that_prompts_may_have(run: ScoringRun) -> None:
    longest = run.model.encoder().max_prompt_tokens
    assert run.settings.vllm.max_model_len == longest + 1
    chosen = ScoringSettings(vllm=VllmSettings(max_model_len=4096))
    assert open_run("p", "s", run.model, chosen).settings.vllm.max_model_len == 4096


def test_two_kinds_of_fp8_are_told_apart() -> None:
    ours, theirs = (ScoringSettings(engine=engine).arithmetic("fp8") for engine in ("transformers", "vllm"))
    assert ours["rounding"] != theirs["rounding"]
