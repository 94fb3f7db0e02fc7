from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from relevance.engines.interface import TokenBatch
from relevance.engines.loading import load_engine
from relevance.engines.settings import EngineSettings
from relevance.weights.activation_memory import ActivationMemory
from relevance.weights.checkpoint import save_checkpoint
from relevance.weights.int8_linear import Int8Linear, quantize_rows
from relevance.weights.loading import load_model
from tests.builders.tiny_models import save_tiny_model
from tests.measures.engine_reference import LABEL_IDS, random_batch

CPU = torch.device("cpu")


def probabilities(model_dir: Path, batch: TokenBatch, quantization: str) -> np.ndarray:
    settings = EngineSettings(device="cpu", num_threads=1, quantization=quantization)
    engine = load_engine(model_dir, adapter_dir=None, label_ids=LABEL_IDS, settings=settings)
    return np.exp(engine.label_logprobs(batch).logprobs)


@pytest.fixture(scope="module")
def taught_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama taught for a few seconds that a label is the product's class and the query's together."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=256, **sizes, bos_token_id=1, eos_token_id=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    labels = torch.tensor(LABEL_IDS)
    for _ in range(150):
        tokens = torch.randint(3, 256, (128, 8))
        wanted = 2 * (tokens[:, 4] % 2) + tokens[:, 7] % 2
        logits = model(tokens).logits[:, -1]
        loss = torch.nn.functional.cross_entropy(logits, labels[wanted])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2, "the model has not learned what the tests need"
    folder = tmp_path_factory.mktemp("taught")
    model.save_pretrained(folder)
    return folder


def taught_batch(pairs: int = 1000) -> TokenBatch:
    random = np.random.default_rng(0)
    draw = lambda count, length: random.integers(3, 256, size=(count, length)).tolist()  # noqa: E731
    order = np.arange(pairs, dtype=np.int32)
    return TokenBatch(draw(1, 4)[0], draw(pairs // 10, 1), draw(pairs, 3), order // 10, order)


def test_int8_changes_at_most_one_percent_of_the_labels(taught_model: Path) -> None:
    batch = taught_batch()
    exact, quantized = probabilities(taught_model, batch, "none"), probabilities(taught_model, batch, "int8")
    assert np.unique(exact.argmax(1), return_counts=True)[1].min() > 100, "all four labels must occur"
    assert (exact.argmax(1) != quantized.argmax(1)).mean() <= 0.01
    assert np.abs(exact - quantized).max() > 0, "int8 left no trace: it did not run"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_the_layer_multiplies_what_it_says_that_it_holds(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    weight, offset, hidden = torch.randn(96, 64), torch.randn(96), torch.randn(2, rows, 64) * 3
    layer = Int8Linear.from_weight(weight, offset if bias else None, ActivationMemory())
    rounded, scale = quantize_rows(hidden.reshape(-1, 64))
    expected = ((rounded.double() * scale) @ layer.dequantized_weight().double().t()).view(2, rows, 96)
    expected = expected + offset if bias else expected
    assert torch.allclose(layer(hidden).double(), expected, atol=1e-4)
    assert (layer.dequantized_weight() - weight).abs().max() <= layer.weight_scale.max() / 2 + 1e-6


def test_the_largest_products_do_not_overflow() -> None:
    hidden, weight = torch.full((4, 512), 7.0), torch.full((32, 512), -3.0)
    layer = Int8Linear.from_weight(weight, None, ActivationMemory())
    assert torch.allclose(layer(hidden), hidden @ weight.t(), rtol=1e-4)


def test_a_layer_in_8_bits_is_not_slow() -> None:
    """Without VNNI torch's product of bytes takes 25 times as long as that of floats: it must not be what runs."""
    plain, hidden = torch.nn.Linear(256, 512, bias=False).requires_grad_(False), torch.randn(1536, 256)
    layer = Int8Linear.from_weight(plain.weight, None, ActivationMemory())
    assert least_cpu_seconds(layer, hidden) <= 4 * least_cpu_seconds(plain, hidden)


def least_cpu_seconds(layer: torch.nn.Module, hidden: torch.Tensor) -> float:
    spent = []
    for _ in range(8):
        fresh = hidden.clone()  # the same tensor would not be rounded again
        started = time.process_time()
        layer(fresh)
        spent.append(time.process_time() - started)
    return min(spent)


def test_rows_of_zeros_stay_zero_and_rows_do_not_touch_each_other() -> None:
    layer = Int8Linear.from_weight(torch.randn(8, 16), None, ActivationMemory())
    hidden = torch.randn(3, 16)
    hidden[1] = 0
    together = layer(hidden)
    hidden[0] *= 1000
    assert torch.equal(together[1], torch.zeros(8))
    assert torch.equal(layer(hidden.clone())[2], together[2])


def test_an_input_that_was_changed_in_place_is_rounded_again() -> None:
    memory = ActivationMemory()
    layer = Int8Linear.from_weight(torch.eye(16), None, memory)
    hidden = torch.ones(1, 16)
    first = layer(hidden)
    hidden.mul_(2)
    assert torch.allclose(layer(hidden), 2 * first)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_an_int8_checkpoint_is_read_as_it_is(tmp_path: Path, family: str) -> None:
    plain = save_tiny_model(tmp_path / "plain", family=family)
    model = load_model(plain, device=CPU, dtype=torch.float32, quantization="int8")
    save_checkpoint(model, tmp_path / "int8")
    tensors = load_file(tmp_path / "int8" / "model.safetensors")
    assert {tensor.dtype for name, tensor in tensors.items() if f"{name}_scale" in tensors} == {torch.int8}
    batch = random_batch(pairs=20)
    expected = probabilities(plain, batch, "int8")
    assert np.array_equal(probabilities(tmp_path / "int8", batch, "auto"), expected)
    undone = probabilities(tmp_path / "int8", batch, "none")
    assert 0 < np.abs(undone - expected).max() < 0.1


def test_chosen_layers_keep_their_precision_in_the_checkpoint_too(tmp_path: Path) -> None:
    plain = save_tiny_model(tmp_path / "plain")
    chosen = r"layers\.0\.self_attn\.[qkv]_proj"
    model = load_model(plain, device=CPU, dtype=torch.float32, quantization="int8", unquantized=chosen)
    save_checkpoint(model, tmp_path / "int8")
    loaded = load_model(tmp_path / "int8", device=CPU, dtype=torch.float32)
    original = AutoModelForCausalLM.from_pretrained(plain)
    assert torch.equal(loaded.model.layers[0].self_attn.k_proj.weight, original.model.layers[0].self_attn.k_proj.weight)
    assert isinstance(loaded.model.layers[0].self_attn.o_proj, Int8Linear)
    assert isinstance(loaded.model.layers[1].self_attn.k_proj, Int8Linear)


def test_a_tied_output_layer_is_restored(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=256, **sizes, tie_word_embeddings=True)).save_pretrained(tmp_path / "plain")
    model = load_model(tmp_path / "plain", device=CPU, dtype=torch.float32, quantization="int8")
    save_checkpoint(model, tmp_path / "int8")
    batch = random_batch(pairs=10)
    expected = probabilities(tmp_path / "plain", batch, "int8")
    assert np.array_equal(probabilities(tmp_path / "int8", batch, "auto"), expected)


def save_int8(folder: Path) -> Path:
    save_tiny_model(folder / "plain")
    save_checkpoint(load_model(folder / "plain", device=CPU, dtype=torch.float32, quantization="int8"), folder / "int8")
    return folder / "int8"


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    folder = save_int8(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"does not fit its config.json, missing \['model.norm.weight'\]"):
        probabilities(folder, random_batch(), "auto")


def test_another_quantization_is_refused(tmp_path: Path) -> None:
    folder = save_int8(tmp_path)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 4
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"found 'compressed-tensors' in format 'int-quantized': quantise the base"):
        probabilities(folder, random_batch(), "auto")


def test_an_adapter_is_not_merged_into_rounded_weights(tmp_path: Path) -> None:
    folder = save_int8(tmp_path)
    with pytest.raises(
        ValueError, match="cannot be merged into the int8 checkpoint int8: merge it into the unquantised"
    ):
        load_model(folder, adapter_dir=tmp_path / "adapter", device=CPU, dtype=torch.float32)


def test_the_output_layer_keeps_its_precision(tmp_path: Path) -> None:
    plain = save_tiny_model(tmp_path / "plain")
    model = load_model(plain, device=CPU, dtype=torch.float32, quantization="int8")
    expected = AutoModelForCausalLM.from_pretrained(plain).get_output_embeddings().weight
    assert torch.equal(model.get_output_embeddings().weight, expected)
    assert isinstance(model.model.layers[0].mlp.down_proj, Int8Linear)
