"""What is built, what quantisation does to it, and who becomes champion."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from cluster.models.files import resolve_model
from relevance.evaluation.figures import EvaluationSettings, Figure
from relevance.evaluation.pairs import query_digests, read_evaluation_pairs
from relevance.evaluation.run import Evaluation, judge
from relevance.publishing.run import PublishSource, check_source
from relevance.publishing.steps import (
    BuiltModel,
    PublishingSettings,
    QuantizationEffect,
    build_model,
    count_learnt,
    decide,
    measure_quantization,
)
from relevance.weights.loading import load_model
from relevance.weights.origin import write_learnt_queries
from tests.builders.tiny_models import save_tiny_model
from tests.unit.relevance.evaluation.test_figures import labelled_rows, predictions, write_csv

SETTINGS = EvaluationSettings(bootstrap_samples=200)
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("publishing") / "base")


def save_adapter(base: Path, folder: Path, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def build(base: Path, adapter: Path | None, output: Path, **settings: object) -> BuiltModel:
    names = resolve_model(str(base)), resolve_model(str(adapter)) if adapter else None
    return build_model(*names, str(output), PublishingSettings(**settings), cache_dir="")


def test_merged_weights_are_those_of_the_adapter_on_its_base(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter")
    (adapter / "prompt.json").write_text((base / "prompt.json").read_text().replace("128", "77"))
    built = build(base, adapter, tmp_path / "out", quantization="none")
    assert built.adapter_base == str(base)
    folder = Path(built.files.source)
    merged = load_model(folder, **CPU).state_dict()
    expected = load_model(base, adapter_dir=adapter, **CPU).state_dict()
    plain = load_model(base, **CPU).state_dict()
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    assert not torch.equal(
        merged["model.layers.0.self_attn.q_proj.weight"], plain["model.layers.0.self_attn.q_proj.weight"]
    )
    assert json.loads((folder / "prompt.json").read_text())["product_token_budget"] == 77
    assert (folder / "tokenizer.json").exists()


def test_int8_is_smaller_and_replaces_an_earlier_attempt(base: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "published").mkdir(parents=True)
    (tmp_path / "out" / "published" / "left_over.safetensors").write_bytes(b"")
    built = build(base, save_adapter(base, tmp_path / "adapter"), tmp_path / "out")
    published, merged = Path(built.files.source), Path(built.merged.source)
    assert [path.name for path in published.glob("*.safetensors")] == ["model.safetensors"]
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (published, merged)]
    assert sizes[0] < 0.5 * sizes[1]
    again = build(published, None, tmp_path / "again")
    assert (again.merged, again.quantization) == (None, "int8")


def test_fp8_is_written_as_vllm_reads_it(base: Path, tmp_path: Path) -> None:
    """Its structure alone: only a GPU multiplies e4m3, and here it must say so instead of guessing."""
    built = build(base, None, tmp_path / "out", quantization="fp8")
    folder = Path(built.files.source)
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    quantization = config["quantization_config"]
    assert (quantization["quant_method"], quantization["format"]) == ("compressed-tensors", "float-quantized")
    (group,) = quantization["config_groups"].values()
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False}
    assert group["weights"] == weights
    assert group["input_activations"] == weights | {"strategy": "token", "dynamic": True}
    assert quantization["ignore"] == ["lm_head"]
    plain = load_model(base, **CPU).state_dict()
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    layers = [name for name in found if name.endswith("_proj.weight")]
    assert len(layers) == 14
    for name in layers:
        weight, scale = found[name], found[f"{name}_scale"]
        assert (weight.dtype, scale.dtype, scale.shape) == (torch.float8_e4m3fn, torch.float32, (len(weight), 1))
        # e4m3 keeps three bits behind the point: half a step is a sixteenth.
        difference = (weight.float() * scale - plain[name]).abs()
        assert (difference <= plain[name].abs() / 16 + scale * 2**-9).all()
        assert weight.float().abs().amax(dim=1) == pytest.approx(torch.full((len(weight),), 448.0).numpy())
    assert {found[name].dtype for name in found if "_proj" not in name} == {torch.bfloat16}
    with pytest.raises(ValueError, match=r"FP8 needs a GPU of compute capability 8.9 or later, found a CPU"):
        load_model(folder, **CPU)


def test_an_adapter_for_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter")
    other = save_tiny_model(tmp_path / "other", family="gpt2")
    with pytest.raises(ValueError, match=r"adapter adapter belongs to another base than other: for model.layers.0"):
        build(other, adapter, tmp_path / "out")
    int8 = Path(build(base, None, tmp_path / "int8").files.source)
    with pytest.raises(
        ValueError, match="cannot be merged into the int8 checkpoint published: merge it into the unqua"
    ):
        build(int8, adapter, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": "b"}, "input: required, give input=VALUE"),
        ({"input": "i"}, "base: required, give base=VALUE"),
        ({"base": "b", "input": "i", "force": True}, "force needs a reason, which is kept with the version"),
        ({"base": "b", "input": "i", "output": "gs://b/o"}, "gs://b/o: unknown storage gs://, expected a local path"),
    ],
)
def test_settings_that_cannot_work_are_refused_first(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_source(PublishSource(**settings))


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    pairs = read_evaluation_pairs(write_csv(path, labelled_rows(100)))
    said = np.where(np.arange(100) % 8 == 0, (pairs.labels + 1) % 4, pairs.labels)
    return judge(pairs, predictions(pairs, said), SETTINGS, shared_queries=0)


def effect(changed: float) -> QuantizationEffect:
    return QuantizationEffect(changed, 0.001, Figure(0.0, 0.0, 0.0), 1.5, 100.0, 10, 20)


def test_what_quantisation_changed_is_counted_on_pairs_that_either_labels(base: Path, tmp_path: Path) -> None:
    pairs = read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", labelled_rows(20)))
    built = BuiltModel(resolve_model(str(base)), resolve_model(str(base)), "int8", None)
    said = pairs.labels.copy()
    said[:2] = (said[:2] + 1) % 4
    plain, quantized = predictions(pairs, pairs.labels), replace(predictions(pairs, said), engine_seconds=0.5)
    quantized.labelled[10:] = False
    found = measure_quantization(pairs, quantized, plain, built, SETTINGS)
    assert found.changed_fraction == pytest.approx(0.6), "a label that is gone is changed"
    assert found.mean_probability_change == pytest.approx(0.2 * 0.6)
    assert found.speed_ratio == pytest.approx(3.0)
    assert found.alpha_difference.value < 0


@pytest.mark.parametrize(
    ("difference", "champion", "why"),
    [
        (Figure(0.01, -0.004, 0.02), True, r"is \+0.0100, at least -0.0040, above the limit of -0.0050"),
        (Figure(0.01, -0.005, 0.02), False, r"is \+0.0100 and may be as low as -0.0050, the limit is -0.0050"),
        (Figure(None, missing="no pair to compare"), False, r"as good as relevance/3 is not known \(no pair to comp"),
        (None, False, r"as good as relevance/3 is not known \(they were not compared\)"),
    ],
)
def test_a_champion_is_replaced_only_by_one_that_is_surely_not_worse(
    evaluation: Evaluation, difference: Figure | None, champion: bool, why: str
) -> None:
    decision = decide(evaluation, None, difference, PublishingSettings(), champion="relevance/3", learnt_queries=0)
    assert decision.champion is champion
    assert re.search(why, decision.why)


def test_pairs_without_a_label_are_an_objection_however_right_the_others_are(tmp_path: Path) -> None:
    pairs = read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", labelled_rows(100)))
    said = predictions(pairs, pairs.labels)
    said.labelled[60:] = False
    found = decide(
        judge(pairs, said, SETTINGS, shared_queries=0),
        None,
        Figure(0.05, 0.02, 0.08),
        PublishingSettings(),
        champion="relevance/3",
        learnt_queries=0,
    )
    assert not found.champion
    assert found.why == "40 of 100 pairs get no label, more than 1.00%: no figure counts them"


def test_a_first_champion_has_to_pass(evaluation: Evaluation) -> None:
    assert decide(evaluation, effect(0.0), None, PublishingSettings(), champion=None, learnt_queries=0).champion
    strict = PublishingSettings(min_alpha=0.99, min_f1_exact=0.999)
    found = decide(evaluation, effect(0.0), None, strict, champion=None, learnt_queries=0)
    assert not found.champion
    assert found.why.startswith("alpha is 0.")
    assert "f1_exact is 0." in found.why


def test_quantisation_that_changes_much_and_leaking_queries_are_objections(evaluation: Evaluation) -> None:
    better = Figure(0.05, 0.02, 0.08)
    found = decide(evaluation, effect(0.2), better, PublishingSettings(), champion="relevance/3", learnt_queries=0)
    assert (found.champion, found.why) == (False, "quantisation changes 20.00% of the labels, more than 3.00%")
    leaking = replace(evaluation, shared_queries=7)
    found = decide(leaking, effect(0.0), better, PublishingSettings(), champion="relevance/3", learnt_queries=0)
    assert (found.champion, found.why) == (False, "7 queries of the evaluation set are in the training set")


def test_force_overrides_and_says_what_it_overrode(evaluation: Evaluation) -> None:
    found = decide(
        evaluation,
        effect(0.2),
        None,
        PublishingSettings(),
        champion="relevance/3",
        learnt_queries=0,
        force_reason="holiday",
    )
    assert found.champion
    assert found.forced == "holiday"
    assert found.why.startswith("forced (holiday) although quantisation changes 20.00% of the labels")


def test_a_model_that_does_not_surely_beat_word_overlap_is_no_champion(evaluation: Evaluation) -> None:
    assert evaluation.advantage is not None
    assert evaluation.advantage.low > 0

    def why(advantage: Figure | None) -> str:
        weak = replace(evaluation, advantage=advantage)
        found = decide(weak, effect(0.0), None, PublishingSettings(), champion=None, learnt_queries=0)
        assert not found.champion
        return found.why

    assert "word overlap is +0.0500 and may be as low as +0.0000" in why(Figure(0.05, 0.0, 0.1))
    assert "better than word overlap is not known (only one label occurs)" in why(
        Figure(None, missing="only one label occurs")
    )
    assert "better than word overlap is not known" in why(None)


def test_an_evaluation_set_has_to_be_proven_unseen(evaluation: Evaluation) -> None:
    unknown = decide(evaluation, effect(0.0), None, PublishingSettings(), champion=None, learnt_queries=None)
    assert (unknown.champion, "is not known (no training.json" in unknown.why) == (False, True)
    leaking = decide(evaluation, effect(0.0), None, PublishingSettings(), champion=None, learnt_queries=3)
    assert (leaking.champion, leaking.why) == (False, "3 queries of the evaluation set are in the training set")
    settings = {"champion": None, "learnt_queries": None, "force_reason": "an adapter of before"}
    forced = decide(evaluation, effect(0.0), None, PublishingSettings(), **settings)
    assert forced.champion
    assert forced.why.startswith("forced (an adapter of before) although whether the model has learnt")


def test_a_check_of_quantisation_that_cannot_be_computed_fails(evaluation: Evaluation) -> None:
    settings = {"champion": "relevance/3", "learnt_queries": 0}
    assert not decide(evaluation, effect(np.nan), Figure(0.05, 0.02, 0.08), PublishingSettings(), **settings).champion


def test_what_weights_have_learnt_from_travels_with_them(base: Path, tmp_path: Path) -> None:
    pairs = read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", labelled_rows(8)))
    adapter = save_adapter(base, tmp_path / "adapter")
    assert count_learnt(pairs, build(base, adapter, tmp_path / "unknown")) is None
    write_learnt_queries(query_digests(["RED shoes, 2", "blue shoes"]), adapter)
    built = build(base, adapter, tmp_path / "first")
    assert count_learnt(pairs, built) == 1
    # Published in 8 bits, published again, and merged under another adapter: it is not forgotten.
    assert count_learnt(pairs, build(Path(built.files.source), None, tmp_path / "again")) == 1
    other = save_adapter(base, tmp_path / "other", seed=1)
    write_learnt_queries(query_digests(["red shoes 3"]), other)
    assert count_learnt(pairs, build(Path(built.merged.source), other, tmp_path / "second")) == 2
    assert count_learnt(pairs, build(base, None, tmp_path / "bare")) is None
