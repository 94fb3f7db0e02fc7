"""A checkpoint is loaded whole or refused, and an adapter merged as it was trained: anything else labels wrongly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from cluster.models.files import resolve_model
from relevance.engines.label_model import LabelModel
from relevance.publishing.steps import PublishingSettings, build_model
from relevance.weights.loading import load_model, load_trainable
from tests.builders.tiny_models import save_tiny_model

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
Tensors = dict[str, torch.Tensor]
IDS = torch.arange(5, 25)[None]


def check(folder: Path) -> None:
    LabelModel(resolve_model(str(folder)), None, "none", "").check()


def answers(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def change(folder: Path, changed: Callable[[str, torch.Tensor], Tensors]) -> None:
    path = folder / "model.safetensors"
    tensors = [changed(name, tensor) for name, tensor in load_file(path).items()]
    save_file({name: one for found in tensors for name, one in found.items()}, path, metadata={"format": "pt"})


def under(prefix: str) -> Callable[[str, torch.Tensor], Tensors]:
    return lambda name, tensor: {prefix + name: tensor}


def unmerged(name: str, tensor: torch.Tensor) -> Tensors:
    return {name.replace("q_proj.weight", "q_proj.base_layer.weight"): tensor}


def rounded(name: str, tensor: torch.Tensor) -> Tensors:
    if "proj" not in name:
        return {name: tensor}
    scale = tensor.abs().max() / 448
    return {name: (tensor / scale).to(torch.float8_e4m3fn), f"{name}_scale": scale.reshape(1)}


def packed(name: str, tensor: torch.Tensor) -> Tensors:
    if "proj" not in name:
        return {name: tensor}
    layer = name.removesuffix(".weight")
    return {f"{layer}.qweight": torch.zeros(4, 8, dtype=torch.int32), f"{layer}.scales": torch.ones(1, 8)}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (under("_orig_mod."), r"_orig_mod\.\S+ is no name that the model itself .* unwrap the model \(torch.compile"),
        (under("base_model.model."), r"base_model\.model\.\S+ is no name that the model itself gives a weight: merge"),
        (unmerged, r"q_proj\.base_layer\.weight is no name that the model itself gives a weight: merge adapters"),
        (rounded, r"_proj\.weight_scale belongs to quantised weights, and config\.json has no quantization_config"),
        (packed, r"_proj\.qweight belongs to quantised weights, and config\.json has no quantization_config"),
    ],
)
def test_names_that_no_model_has_are_refused_before_weights_load(
    tmp_path: Path, changed: Callable[[str, torch.Tensor], Tensors], sentence: str
) -> None:
    folder = save_tiny_model(tmp_path / "base")
    change(folder, changed)
    for refusing in (check, lambda folder: load_model(folder, **CPU), lambda folder: load_trainable(folder, **CPU)):
        with pytest.raises(ValueError, match=f"^model base: .*{sentence}") as refused:
            refusing(folder)
        assert "\n" not in str(refused.value)


def lose_a_tensor(folder: Path) -> None:
    change(folder, lambda name, tensor: {} if name == "model.layers.1.mlp.down_proj.weight" else {name: tensor})


def lose_the_output(folder: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(folder)


def gain_a_bias(folder: Path) -> None:
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}
    change(folder, lambda name, tensor: {name: tensor, **(bias if name == "model.norm.weight" else {})})


def shrink_a_tensor(folder: Path) -> None:
    change(folder, lambda name, tensor: {name: tensor[:-1].clone() if name == "lm_head.weight" else tensor})


def leave_scales_to_a_file_of_vllms(folder: Path) -> None:
    change(folder, rounded)
    (folder / "hf_quant_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lose_a_tensor, r"its safetensors lack model\.layers\.1\.mlp\.down_proj\.weight, so it would answer"),
        (lose_the_output, r"its safetensors lack lm_head\.weight, so .* save_pretrained as a causal language model"),
        (gain_a_bias, r"its architecture has no place for model\.layers\.0\.self_attn\.q_proj\.bias, so"),
        (shrink_a_tensor, r"config\.json and safetensors disagree on the shape of lm_head\.weight, so"),
        (
            leave_scales_to_a_file_of_vllms,
            r"its architecture has no place for model\.layers\.0\.mlp\.down_proj\.weight_scale \(and 13 more\)",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    folder = save_tiny_model(tmp_path / "base")
    spoil(folder)
    check(folder)
    for load in (load_model, load_trainable):
        with pytest.raises(ValueError, match=f"^model base: {sentence}") as refused:
            load(folder, **CPU)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2"])
def test_a_sound_checkpoint_is_loaded_as_it_is(tmp_path: Path, family: str, tied: bool) -> None:
    folder = save_tiny_model(tmp_path / "base", family=family, tied=tied)
    check(folder)
    expected = answers(AutoModelForCausalLM.from_pretrained(folder))
    assert torch.equal(answers(load_model(folder, **CPU)), expected)
    assert torch.equal(answers(load_trainable(folder, **CPU)), expected)


def test_what_old_and_other_checkpoints_hold_besides_does_no_harm(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "base", family="gpt2", tied=True)
    expected = answers(load_model(folder, **CPU))
    AutoModel.from_pretrained(folder).save_pretrained(folder)  # without the first parts of names, as on the hub
    more = {
        "h.0.attn.bias": torch.ones(1, 1, 8, 8),
        "h.1.attn.masked_bias": torch.tensor(-1e4),
        "score.weight": torch.ones(2, 64),
        "v_head.summary.weight": torch.ones(1, 64),
    }
    change(folder, lambda name, tensor: {name: tensor, **(more if name == "wpe.weight" else {})})
    check(folder)
    assert torch.equal(answers(load_model(folder, **CPU)), expected)


@pytest.mark.parametrize("chosen", [{"target_modules": ["q_proj", "lm_head"]}, {"target_modules": ["embed_tokens"]}])
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_an_adapter_on_one_of_two_tied_matrices_changes_that_one(
    tmp_path: Path, chosen: dict[str, object], quantization: str
) -> None:
    base, adapter = save_tiny_model(tmp_path / "base", tied=True), tmp_path / "adapter"
    expected = save_adapter(base, adapter, **chosen)
    names = resolve_model(str(base)), resolve_model(str(adapter))
    LabelModel(*names, "none", "").check()
    assert torch.allclose(answers(load_model(base, adapter_dir=adapter, **CPU)), expected, atol=1e-4)
    built = build_model(*names, str(tmp_path / "out"), PublishingSettings(quantization=quantization), cache_dir="")
    published = load_model(Path(built.files.source), **CPU)
    assert built.merged is not None
    assert published.lm_head.weight is not published.model.embed_tokens.weight
    assert torch.allclose(answers(load_model(Path(built.merged.source), **CPU)), expected, atol=1e-4)
    # 8 bits move a logit a little; merged into both matrices the adapter moves most of them by more than a spread.
    assert (answers(published) - expected).abs().mean() < 0.1 * expected.std()


@pytest.mark.parametrize("whole", [["lm_head"], ["embed_tokens"]])
def test_a_matrix_that_was_trained_whole_is_saved_beside_the_other(tmp_path: Path, whole: list[str]) -> None:
    base, adapter = save_tiny_model(tmp_path / "base", tied=True), tmp_path / "adapter"
    expected = save_adapter(base, adapter, target_modules=["q_proj"], modules_to_save=whole)
    merged = load_model(base, adapter_dir=adapter, **CPU)
    assert torch.allclose(answers(merged), expected, atol=1e-4)
    assert not merged.config.tie_word_embeddings, "vLLM would read one of the two for both"


def test_an_adapter_that_holds_both_matrices_together_is_refused(tmp_path: Path) -> None:
    base, adapter = save_tiny_model(tmp_path / "base", tied=True), tmp_path / "adapter"
    save_adapter(base, adapter, target_modules=["embed_tokens"], ensure_weight_tying=True)
    with pytest.raises(ValueError, match=r"^adapter adapter: .* one matrix here, .*: merge it where it was trained"):
        load_model(base, adapter_dir=adapter, **CPU)


def save_adapter(base: Path, folder: Path, **chosen: object) -> torch.Tensor:
    """Write an adapter of random factors; what peft's own model answers with it."""
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, **chosen))
    torch.manual_seed(3)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    adapted.save_pretrained(folder)
    return answers(adapted)
