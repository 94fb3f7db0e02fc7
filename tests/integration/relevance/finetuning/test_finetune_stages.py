"""Fine-tuning in stages: going on from an adapter, and what the stages before must not have seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jobs.relevance_crossvalidate import CrossvalidateJob
from jobs.relevance_crossvalidate import main as cross_validate
from jobs.relevance_finetune import FinetuneJob, main
from tests.builders.pairs_data import write_learnable_pairs
from tests.builders.tiny_models import save_tiny_model

TRAINING = {"learning_rate": 3e-3, "pairs_per_step": 32, "bf16": False}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("stages")
    return {
        "base": str(save_tiny_model(folder / "base")),
        "input": str(write_learnable_pairs(folder / "pairs.csv", num_queries=40)),
        "finetuning": {"epochs": 6, "training": TRAINING, "allow_missing_labels": True},
        "trainer": {"num_workers": 0, "checkpoints": str(folder / "checkpoints")},
        "tracking": {"uri": f"sqlite:///{folder / 'mlflow.db'}"},
    }


@pytest.fixture(scope="module")
def first(local_ray: str, settings: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("first") / "adapter"
    main(FinetuneJob.model_validate({**settings, "output": str(output)}))
    return output


def _train(settings: dict, output: Path, **changed: object) -> dict:
    main(FinetuneJob.model_validate({**settings, "output": str(output), **changed}))
    return json.loads((output / "training.json").read_text("utf-8"))


def test_a_second_stage_begins_where_the_first_ended(settings: dict, first: Path, tmp_path: Path) -> None:
    still = {**settings["finetuning"], "epochs": 1, "half": True, "training": {**TRAINING, "learning_rate": 1e-9}}
    origin = _train(settings, tmp_path / "second", adapter=str(first), finetuning=still)
    assert origin["went_on_from"]
    assert set(origin["training_queries"]) >= set(json.loads((first / "training.json").read_text())["training_queries"])
    before, after = (load_file(path / "adapter_model.safetensors") for path in (first, tmp_path / "second"))
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}
    assert all(torch.allclose(before[name], after[name].float(), atol=1e-3) for name in before)
    assert any(tensor.abs().max() > 1e-2 for name, tensor in before.items() if "lora_B" in name)


def test_an_adapter_of_another_rank_is_refused_with_the_setting_to_change(
    settings: dict, first: Path, tmp_path: Path
) -> None:
    other = {**settings["finetuning"], "lora": {"rank": 4}}
    with pytest.raises(ValueError, match=r"rank 16.*set finetuning\.lora\.rank=16"):
        _train(settings, tmp_path / "refused", adapter=str(first), finetuning=other)


def test_an_adapter_of_another_base_of_the_same_shape_is_refused(settings: dict, first: Path, tmp_path: Path) -> None:
    other = str(save_tiny_model(tmp_path / "base", seed=1))
    with pytest.raises(ValueError, match="belongs to another base"):
        _train(settings, tmp_path / "refused", base=other, adapter=str(first))


def test_pairs_of_the_stage_that_judges_are_spared(settings: dict, tmp_path: Path) -> None:
    judging = Path(settings["input"]).read_text("utf-8").splitlines()
    (tmp_path / "some.csv").write_text("\n".join(judging[:60]) + "\n", encoding="utf-8")
    everything = _train(settings, tmp_path / "all")
    origin = _train(settings, tmp_path / "without", spared=str(tmp_path / "some.csv"))
    assert 0 < origin["num_training_pairs"] < everything["num_training_pairs"]
    assert len(origin["training_queries"]) < len(everything["training_queries"])


def test_folds_are_not_judged_by_an_adapter_that_saw_them(settings: dict, first: Path, tmp_path: Path) -> None:
    job = {**settings, "output": str(tmp_path / "folds"), "num_folds": 2, "adapter": str(first)}
    with pytest.raises(ValueError, match="learnt from 40 of the queries that are to judge"):
        cross_validate(CrossvalidateJob.model_validate(job))
