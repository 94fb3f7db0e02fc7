import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from relevance.engines.label_model import open_label_model
from relevance.labels import LABELS, label_token_ids, parse_label
from relevance.prompting.fast_tokenizer import FastTokenizer
from relevance.prompting.guidelines import load_guidelines
from relevance.prompting.prompts import PromptEncoder, PromptSettings, load_prompt_settings, product_texts, query_texts
from tests.conftest import PROJECT

SMALL_MODEL = PROJECT / "relevance" / "small_model"


@pytest.fixture
def tokenizer(tiny_model: Path) -> FastTokenizer:
    return FastTokenizer(tiny_model)


@pytest.fixture
def encoder(tokenizer: FastTokenizer) -> PromptEncoder:
    return PromptEncoder(tokenizer, PromptSettings(guidelines="brief", product_token_budget=20, query_token_budget=8))


@pytest.mark.parametrize("folder", ["tiny", "small"])
def test_tokens_are_those_of_transformers(folder: str, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    path = tiny_model if folder == "tiny" else SMALL_MODEL
    fast, full = FastTokenizer(path), AutoTokenizer.from_pretrained(path)
    prompt = load_prompt_settings(path)
    texts = ["\n\nProduct: Café Müller 12 oz. <s> mug’s", "\n\nProduct: ", "\n\nProduct: 赤い靴 ✨ <|endoftext|>"]
    ours, theirs = PromptEncoder(fast, prompt), PromptEncoder(full, prompt)
    assert ours.guidelines_ids == theirs.guidelines_ids
    assert ours.encode_products(texts) == theirs.encode_products(texts)
    assert ours.label_ids == theirs.label_ids
    assert ours.digest == theirs.digest


def test_any_run_of_white_space_is_one_blank_and_none_is_left_at_the_ends() -> None:
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list(" \t\n\f\rab日"), size)) for size in random.integers(0, 15, 2_000)]
    expected = [re.sub(r"[ \t\n\f\r]+", " ", text).strip() for text in texts]
    assert query_texts(pa.array(texts)).to_pylist() == [f"\n\nQuery: {text}" for text in expected]
    products = product_texts(pa.table({"title": texts, "brand": pa.nulls(len(texts), pa.string())}))
    assert products.to_pylist() == [f"\n\nProduct: {text}" if text else "" for text in expected]


def test_products_are_cut_and_queries_are_not(encoder: PromptEncoder) -> None:
    (product,) = encoder.encode_products(["\n\nProduct: " + "steel bottle " * 50])
    assert len(product) == 20
    fits, too_long = encoder.encode_queries(["\n\nQuery: clock", "\n\nQuery: " + "steel bottle " * 50])
    assert fits is not None
    assert too_long is None
    assert len(encoder.guidelines_ids) + len(product) + len(fits) <= encoder.max_prompt_tokens


@pytest.mark.parametrize("model", ["small_model", "smollm2_adapter"])
def test_no_real_query_in_english_spanish_or_japanese_is_over_the_shipped_budgets(model: str) -> None:
    with (PROJECT.parent / "shared" / "data" / "esci" / "raw_pairs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["market"] for row in rows} == {"US", "ES", "JP"}
    # Pieces of SmolLM2 are in a package that not everybody has; the small model's are fewer, so that texts are longer.
    prompt = load_prompt_settings(PROJECT / "relevance" / model)
    encoder = PromptEncoder(FastTokenizer(SMALL_MODEL), prompt)
    assert all(encoder.encode_queries([f"\n\nQuery: {row['query']}" for row in rows]))


def test_text_that_spells_a_control_token_stays_text(encoder: PromptEncoder) -> None:
    (ids,) = encoder.encode_products(["\n\nProduct: <s></s><pad>"])
    assert not {0, 1, 2} & set(ids)
    assert encoder.guidelines_ids[0] == 1


def test_the_digest_changes_with_the_rules_and_with_nothing_else(tokenizer: FastTokenizer) -> None:
    rules = load_guidelines()
    other = replace(rules, version="next", definitions={**rules.definitions, "exact": "something else"})
    prompt = PromptSettings(guidelines="brief")
    digests = {PromptEncoder(tokenizer, prompt, guidelines).digest for guidelines in (rules, other)}
    assert len(digests) == 2
    assert PromptEncoder(tokenizer, prompt).digest in digests
    assert PromptEncoder(tokenizer, PromptSettings(guidelines="full")).digest not in digests


def test_a_label_word_of_two_tokens_is_named(tokenizer: FastTokenizer) -> None:
    words = (" exact", " substitute", " not a single word", " irrelevant")
    with pytest.raises(
        ValueError, match=r"label 'complement': the word ' not a single word' is \d+ tokens .*one is needed"
    ):
        label_token_ids(tokenizer, words)
    with pytest.raises(ValueError, match="share a token: set label_words in the model's prompt"):
        label_token_ids(tokenizer, (" exact", " exact", " complement", " irrelevant"))


def test_labels_are_read_in_full_or_as_a_letter() -> None:
    assert [parse_label(text) for text in ("exact", "S", "c", " Irrelevant ")] == list(LABELS)
    with pytest.raises(ValueError, match="unknown label 'maybe': expected one of exact, substitute"):
        parse_label("maybe")


def test_a_prompt_longer_than_the_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    for path in tiny_model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 100}))
    model = open_label_model(str(tmp_path), None, quantization="none", cache_dir=str(tmp_path))
    message = r"has 100 positions, a prompt may take \d+ tokens: lower the budgets in the model's prompt\.json"
    with pytest.raises(ValueError, match=message):
        model.encoder()
