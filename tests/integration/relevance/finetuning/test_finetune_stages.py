"""Fine-tuning in stages: going on from an adapter, and what the stages before must not have seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jobs.relevance_crossvalidate import CrossvalidateJob
from jobs.relevance_crossvalidate import main as cross_validate
from jobs.relevance_evaluate import EvaluateJob
from jobs.relevance_evaluate import main as evaluate
from jobs.relevance_finetune import FinetuneJob, main
from relevance.evaluation.pairs import query_digests, read_evaluation_pairs
from relevance.weights.origin import learnt_queries
from tests.builders.pairs_data import write_learnable_pairs
from tests.builders.tiny_models import save_tiny_model

TRAINING = {"learning_rate": 3e-3, "pairs_per_step": 32, "bf16": False}
READING = {"epochs": 4, "learning_rate": 3e-3, "head_learning_rate": 3e-2}


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


def test_an_adapter_of_unknown_origin_makes_none_that_is_known(settings: dict, first: Path, tmp_path: Path) -> None:
    unknown = shutil.copytree(first, tmp_path / "unknown")
    origin = json.loads((unknown / "training.json").read_text("utf-8"))
    del origin["training_queries"]
    (unknown / "training.json").write_text(json.dumps(origin), encoding="utf-8")
    short = {**settings["finetuning"], "epochs": 1}
    assert _train(settings, tmp_path / "second", adapter=str(unknown), finetuning=short)["training_queries"] is None
    assert learnt_queries(tmp_path / "second") is None, "a champion needs to be proven not to have seen what judges it"
    job = {**settings, "output": str(tmp_path / "folds"), "num_folds": 2, "adapter": str(unknown)}
    with pytest.raises(ValueError, match="learnt from the queries that are to judge is not known"):
        cross_validate(CrossvalidateJob.model_validate(job))


def test_what_is_kept_back_is_not_judged_by_an_adapter_that_saw_it(settings: dict, first: Path, tmp_path: Path) -> None:
    held = {**settings["finetuning"], "judged_fraction": 0.25}
    with pytest.raises(ValueError, match="learnt from 10 of the queries that are to judge"):
        _train(settings, tmp_path / "refused", adapter=str(first), finetuning=held)


def test_a_model_is_not_judged_by_queries_that_it_says_it_learnt_from(
    settings: dict, first: Path, tmp_path: Path
) -> None:
    job = {"input": settings["input"], "model": settings["base"], "adapter": str(first)}
    job |= {"output": str(tmp_path / "evaluation"), "tracking": settings["tracking"]}
    with pytest.raises(ValueError, match=r"that it has learnt from 40 of the evaluation set's 40 queries"):
        evaluate(EvaluateJob.model_validate(job))
    evaluate(EvaluateJob.model_validate({**job, "allow_overlap": True}))
    page = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text("utf-8"))
    assert page["verdict"] == "Not to be trusted: 40 queries are in the training set too."


def test_a_teachers_cross_encoder_learns_from_pairs_of_other_sources_alone(settings: dict, tmp_path: Path) -> None:
    others = write_learnable_pairs(tmp_path / "others.csv", num_queries=30, seed=1)
    weak = tmp_path / "weak.csv"
    rows = [f"weak {number},thing {number},{('yes', 'no')[number % 2]}" for number in range(20)]
    weak.write_text("\n".join(["query,title,is_substitute", *rows]) + "\n", encoding="utf-8")
    teaching = {"encoder": settings["base"], "catalogue_products": 0, "cross_encoder": READING}
    taught = {"finetuning": {**settings["finetuning"], "epochs": 1, "teaching": teaching}, "weak": str(weak)}
    cache = {"cache_dir": str(tmp_path / "cache")}
    origin = _train(settings, tmp_path / "adapter", teacher_pairs=(str(others),), **taught, **cache)
    judged = set(query_digests(read_evaluation_pairs(str(others)).queries))
    assert judged <= set(origin["training_queries"]), "the teacher's pairs must not judge its pupil"
    assert len(list((tmp_path / "cache" / "cross_encoders").iterdir())) == 1
    with pytest.raises(ValueError, match=r"cross_encoder\.epochs: .* learns labels from teacher_pairs: name both"):
        _train(settings, tmp_path / "refused", **taught)
    with pytest.raises(ValueError, match=r"cross_encoder\.epochs: .* learns labels from teacher_pairs: name both"):
        _train(settings, tmp_path / "refused", finetuning=taught["finetuning"])
