"""The 8-bit folder that ships: small, loadable, and close to the model it was made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer

import relevance
from relevance.engines.label_model import open_label_model
from relevance.engines.settings import EngineSettings
from relevance.evaluation.predictions import ask_model
from relevance.labels import label_token_ids
from relevance.pairs.pair import clean_pairs
from relevance.prompting.prompts import PromptEncoder, PromptSettings, load_prompt_settings
from relevance.small_model_recipe.catalogue import CatalogueWriter
from relevance.small_model_recipe.pretraining import ModelShape, new_model, save_model
from relevance.small_model_recipe.tokenization import train_small_tokenizer
from relevance.weights.loading import load_model
from relevance.weights.quantization import quantize_folder
from tests.builders.tiny_models import save_tiny_model

SHIPPED = Path(relevance.__file__).with_name("small_model")


def ask(folder: Path, queries: list[str], titles: list[str]) -> np.ndarray:
    """Probabilities of the labels, (n, 4), as scoring gets them."""
    numbers = [str(number) for number in range(len(queries))]
    table = pa.table({"query_id": numbers, "query": queries, "product_id": numbers, "title": titles})
    model = open_label_model(str(folder), None, quantization="auto", cache_dir="")
    settings = EngineSettings(device="cpu", dtype="float32")
    return ask_model(clean_pairs(table, max_text_bytes=10_000), model, settings).probabilities


def test_quantised_folder_gives_nearly_the_same_probabilities(tmp_path: Path) -> None:
    writer = CatalogueWriter("quantise")
    titles = [writer.product().title for _ in range(40)]
    prompt = PromptSettings(guidelines="brief", product_token_budget=32, query_token_budget=24)
    encoder = PromptEncoder(train_small_tokenizer(titles, vocab_size=1024, prompt=prompt), prompt)
    model = new_model(ModelShape(hidden_size=128, num_layers=3, intermediate_size=64, vocab_size=1024), encoder)
    save_model(model, encoder, tmp_path / "float")
    size = quantize_folder(tmp_path / "float", tmp_path / "int8")
    assert size < 0.6 * sum(path.stat().st_size for path in (tmp_path / "float").iterdir())
    queries = [title.lower()[:20] for title in titles]
    difference = ask(tmp_path / "int8", queries, titles) - ask(tmp_path / "float", queries, titles)
    # Rounding to 8 bits costs about a hundredth in probability; the output layer and the embeddings are not rounded.
    assert np.abs(difference).mean() < 0.02
    assert load_prompt_settings(tmp_path / "int8") == prompt


def test_chosen_layers_stay_in_half_precision(tmp_path: Path) -> None:
    titles = ["Red Running Shoes"] * 4
    prompt = PromptSettings(guidelines="brief", product_token_budget=32, query_token_budget=24)
    encoder = PromptEncoder(train_small_tokenizer(titles, vocab_size=1024, prompt=prompt), prompt)
    model = new_model(ModelShape(hidden_size=128, num_layers=3, intermediate_size=64, vocab_size=1024), encoder)
    save_model(model, encoder, tmp_path / "float")
    quantize_folder(tmp_path / "float", tmp_path / "int8", unquantized=r"self_attn\.[qkv]_proj")
    first = load_model(tmp_path / "int8", device=torch.device("cpu"), dtype=torch.float32).model.layers[0]
    assert first.self_attn.q_proj.weight.dtype == torch.float32
    assert first.self_attn.o_proj.weight.dtype == torch.int8


def test_a_tokeniser_in_two_files_goes_with_the_weights(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", family="gpt2")
    model = json.loads((base / "tokenizer.json").read_text("utf-8"))["model"]
    (base / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "\n".join(one if isinstance(one, str) else " ".join(one) for one in model["merges"])
    (base / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    (base / "tokenizer.json").unlink()
    config = {"tokenizer_class": "GPT2Tokenizer", "unk_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    quantize_folder(base, tmp_path / "int8")
    expected, found = (
        open_label_model(str(tmp_path / one), None, quantization="auto", cache_dir="").encoder()
        for one in ("base", "int8")
    )
    assert (found.label_ids, found.guidelines_ids) == (expected.label_ids, expected.guidelines_ids)


def test_shipped_model_is_small_and_complete() -> None:
    size = sum(path.stat().st_size for path in SHIPPED.iterdir())
    assert size < 12_000_000
    assert {path.suffix for path in SHIPPED.iterdir()} <= {".json", ".safetensors"}
    assert len(label_token_ids(AutoTokenizer.from_pretrained(SHIPPED))) == 4


@pytest.mark.parametrize(
    ("query", "title", "label"),
    [
        ("red running shoes", "Nolo Red Running Shoes for Men, Lightweight, Size 9", 0),
        ("blue running shoes", "Nolo Red Running Shoes for Men, Lightweight, Size 9", 1),
        ("wireless keyboard", "Brak Cast Iron Skillet, 10 Inch", 3),
    ],
)
def test_shipped_model_knows_the_plain_cases(query: str, title: str, label: int) -> None:
    assert ask(SHIPPED, [query], [title]).argmax() == label
