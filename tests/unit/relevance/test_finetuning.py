"""LoRA on label tokens, the teacher, the folds."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch

from relevance.catalogue import CatalogueWriter
from relevance.crossvalidation import cross_validate, figures, figures_table
from relevance.finetuning import FinetuningSettings, TaughtPairs, finetune, predict
from relevance.overlap import FEATURES, OverlapFeatures, combine_with_answers
from relevance.pretraining import ModelShape, new_model, tokenize_examples
from relevance.prompts import PromptEncoder, PromptSettings
from relevance.tokenization import train_small_tokenizer
from relevance.training_pairs import LabelledPairs, WeakPairs, read_labelled_pairs, split_folds

SHARES = {"exact": 0.4, "substitute": 0.3, "complement": 0.1, "irrelevant": 0.2}
LABELS = list(SHARES)
SHAPE = ModelShape(hidden_size=128, num_layers=3, intermediate_size=64, vocab_size=1024)


def draw_pairs(number: int, seed: str) -> LabelledPairs:
    drawn = CatalogueWriter(seed).pairs(SHARES, 2)
    rows = [
        (query.text, offered.title, LABELS.index(label))
        for _, (offered, query, label) in zip(range(number), drawn, strict=False)
    ]
    queries, titles, labels = zip(*rows, strict=True)
    return LabelledPairs(queries, titles, np.array(labels))


def weak_pairs(number: int) -> WeakPairs:
    pairs = draw_pairs(number, "weak")
    return WeakPairs(pairs.queries, pairs.titles, pairs.labels == 1)


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    prompt = PromptSettings(guidelines="brief", product_token_budget=32, query_token_budget=24)
    texts = draw_pairs(300, "tokeniser").titles
    return PromptEncoder(train_small_tokenizer(texts, vocab_size=1024, prompt=prompt), prompt)


@pytest.fixture
def base(encoder: PromptEncoder) -> torch.nn.Module:
    return new_model(SHAPE, encoder)


def test_an_adapter_fits_one_batch_and_leaves_the_base_alone(base: torch.nn.Module, encoder: PromptEncoder) -> None:
    pairs = draw_pairs(8, "batch")
    before = base.model.layers[0].self_attn.q_proj.weight.clone()
    targets = [np.eye(4, dtype=np.float32)[[label]] for label in pairs.labels]
    examples = tokenize_examples(encoder, [{"title": t} for t in pairs.titles], [[q] for q in pairs.queries], targets)
    settings = FinetuningSettings(learning_rate=5e-3, dropout=0, pairs_per_step=8, bf16=False)
    tuned = finetune(base, encoder, repeat(examples), settings, steps=60)
    assert (predict(tuned.base_model.model, encoder, pairs.queries, pairs.titles).argmax(axis=1) == pairs.labels).all()
    assert torch.equal(tuned.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight, before)


def test_probabilities_do_not_depend_on_the_other_pairs(base: torch.nn.Module, encoder: PromptEncoder) -> None:
    pairs = draw_pairs(5, "alone")
    together = predict(base, encoder, pairs.queries, pairs.titles)
    alone = predict(base, encoder, pairs.queries[3:4], pairs.titles[3:4])
    assert together.sum(axis=1) == pytest.approx(1)
    assert together[3] == pytest.approx(alone[0], abs=1e-4)


def test_overlap_sees_plurals_spellings_and_the_head_noun() -> None:
    features = OverlapFeatures(["red running shoe", "blue shirt"])
    row = dict(zip(FEATURES, features(["running shoes for men"], ["Red Running Shoe"])[0], strict=True))
    assert row["head"] == 1
    assert row["share"] == pytest.approx(2 / 3)
    assert dict(zip(FEATURES, features(["blender"], ["Red Shoe"])[0], strict=True))["none"] == 1
    assert not features(["+++"], ["Red Shoe"]).any()


def test_reliability_of_answers_is_found() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 4000)
    opinion = 0.6 * np.eye(4)[truth] + 0.1
    opinion /= opinion.sum(axis=1, keepdims=True)
    says_yes = random.random(4000) < np.array([0.1, 0.9, 0.5, 0.3])[truth]
    posterior, share_of_yes = combine_with_answers(opinion, says_yes, rounds=50)
    assert share_of_yes == pytest.approx([0.1, 0.9, 0.5, 0.3], abs=0.12)
    right = posterior[np.arange(4000), truth].mean()
    assert right > opinion[np.arange(4000), truth].mean()


def test_taught_epochs_are_drawn_anew_and_keep_the_labels(encoder: PromptEncoder) -> None:
    labelled = draw_pairs(60, "labelled")
    settings = FinetuningSettings(
        taught_queries_per_title=2, label_repeats=2, teacher_share=0, label_smoothing=0, catalogue_products=9
    )
    taught = TaughtPairs(labelled, weak_pairs(40), settings)
    first, again, second = (taught.epoch(encoder, number) for number in (0, 0, 1))
    assert [example.queries for example in first] == [example.queries for example in again]
    assert [example.queries for example in first] != [example.queries for example in second]
    assert len(first) == 109
    assert [example.targets[0].argmax() for example in first[:60]] == labelled.labels.tolist()
    assert [len(example.queries) for example in (first[0], first[60])] == [4, 3]


def test_folds_share_neither_query_nor_title() -> None:
    pairs = draw_pairs(100, "folds")
    for training, judged in split_folds(pairs, 5, seed=0):
        own, other = pairs.take(training), pairs.take(judged)
        assert not set(own.queries) & set(other.queries)
        assert not set(own.titles) & set(other.titles)


def test_weak_pairs_that_stand_among_the_judged_are_dropped() -> None:
    judged = LabelledPairs(["Red shoes!"], ["Shoe, Red (9)"], np.array([0]))
    weak = WeakPairs(["red SHOES", "hat", "hat"], ["Boot", "shoe red 9", "Cap"], np.array([True, False, True]))
    kept = weak.without(judged)
    assert (list(kept.titles), kept.is_substitute.tolist()) == (["Cap"], [True])


def test_cross_validation_judges_every_pair(encoder: PromptEncoder) -> None:
    labelled = draw_pairs(80, "judged")
    settings = FinetuningSettings(
        epochs=1, taught_queries_per_title=0, label_repeats=1, catalogue_products=0, bf16=False, rank=2
    )
    found = cross_validate(
        lambda: new_model(SHAPE, encoder), encoder, labelled, weak_pairs(40), settings, num_folds=2, seed=0
    )
    table = figures(labelled, found)
    assert found["probabilities"].sum(axis=1) == pytest.approx(1)
    assert table["majority"]["alpha"] < table["word overlap"]["alpha"]
    assert "| word overlap |" in figures_table(table)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("query,label\nshoes,exact\n")
    with pytest.raises(ValueError, match=r"pairs\.csv: expected the columns query, title, label, missing title"):
        read_labelled_pairs(path)
