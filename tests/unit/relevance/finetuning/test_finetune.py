"""LoRA on label tokens, the teacher, the folds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cluster.models.files import ModelFiles, resolve_model
from cluster.models.sentence_encoder import SentenceEncoder
from relevance.engines.label_model import LabelModel
from relevance.evaluation.overlap import FEATURES, OverlapFeatures, combine_with_answers
from relevance.evaluation.pairs import read_evaluation_pairs, shared_queries
from relevance.finetuning.cross_encoder import CrossEncoderSettings
from relevance.finetuning.finetune import GroupedExamples, label_targets, split_judged, split_validation
from relevance.finetuning.pairs import LabelledTexts, WeakPairs, read_labelled_pairs, read_weak_pairs, split_folds
from relevance.finetuning.recipe import FinetuneSource, FinetuningSettings, read_inputs
from relevance.finetuning.sweep import Cell
from relevance.finetuning.sweep_report import draw_sweep, sweep_table
from relevance.finetuning.taught_pairs import TaughtPairs, TeachingSettings
from relevance.prompting.prompts import PromptEncoder, PromptSettings
from relevance.small_model_recipe.catalogue import CatalogueWriter
from relevance.small_model_recipe.tokenization import train_small_tokenizer
from relevance.weights.adapters import LoraSettings, adapter_weights, add_adapter, save_adapter
from relevance.weights.loading import base_fingerprint, load_model, load_trainable
from relevance.weights.origin import TRAINING_FILE
from tests.builders.pairs_data import write_learnable_pairs
from tests.builders.tiny_models import save_tiny_model

SHARES = {"exact": 0.4, "substitute": 0.3, "complement": 0.1, "irrelevant": 0.2}
LABELS = list(SHARES)


def draw_pairs(number: int, seed: str) -> LabelledTexts:
    drawn = CatalogueWriter(seed).pairs(SHARES, 2)
    rows = [
        (query.text, offered.title, LABELS.index(label))
        for _, (offered, query, label) in zip(range(number), drawn, strict=False)
    ]
    queries, titles, labels = zip(*rows, strict=True)
    return LabelledTexts(queries, titles, np.array(labels))


def weak_pairs(number: int) -> WeakPairs:
    pairs = draw_pairs(number, "weak")
    return WeakPairs(pairs.queries, pairs.titles, pairs.labels == 1)


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    prompt = PromptSettings(guidelines="brief", product_token_budget=32, query_token_budget=24)
    texts = draw_pairs(300, "tokeniser").titles
    return PromptEncoder(train_small_tokenizer(texts, vocab_size=1024, prompt=prompt), prompt)


def test_an_adapter_is_written_as_peft_reads_it(tiny_model: Path, tmp_path: Path) -> None:
    cpu, float32 = torch.device("cpu"), torch.float32
    tuned = add_adapter(load_trainable(tiny_model, device=cpu, dtype=float32), LoraSettings(rank=4))
    trained = {name: weight for name, weight in tuned.base_model.model.named_parameters() if weight.requires_grad}
    for weight in trained.values():
        torch.nn.init.normal_(weight, std=0.1)
    save_adapter(tuned, trained, tmp_path)
    assert {name: weight.shape for name, weight in adapter_weights(tmp_path).items()} == {
        name: weight.shape for name, weight in trained.items()
    }
    merged = load_model(tiny_model, adapter_dir=tmp_path, device=cpu, dtype=float32)
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, tuned.eval()(ids).logits, atol=1e-4)


def test_the_adapter_of_a_tied_base_holds_what_was_trained_alone(tiny_model: Path, tmp_path: Path) -> None:
    tuned = add_adapter(
        load_trainable(tiny_model, device=torch.device("cpu"), dtype=torch.float32), LoraSettings(rank=4)
    )
    # A tied base's frozen output matrix is among a checkpoint's weights, under both of its names.
    weights = {name: weight.detach() for name, weight in tuned.base_model.model.named_parameters()}
    save_adapter(tuned, {name: weight for name, weight in weights.items() if "base_layer" not in name}, tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", framework="pt") as file:
        assert all(".lora_" in name for name in file.keys())  # noqa: SIM118
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 200_000


def test_an_adapter_for_another_base_of_the_same_shape_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    cpu, float32 = torch.device("cpu"), torch.float32
    base = load_trainable(tiny_model, device=cpu, dtype=float32)
    found = base_fingerprint(base)
    half = load_trainable(tiny_model, device=cpu, dtype=torch.bfloat16)
    assert base_fingerprint(half) == found, "precision makes no other base"
    tuned = add_adapter(base, LoraSettings(rank=4))
    weights = {name: weight.detach() for name, weight in tuned.base_model.model.named_parameters() if "lora" in name}
    save_adapter(tuned, weights, tmp_path / "adapter")
    (tmp_path / "adapter" / TRAINING_FILE).write_text(f'{{"base": "tiny@1", "base_fingerprint": "{found}"}}')
    load_model(tiny_model, adapter_dir=tmp_path / "adapter", device=cpu, dtype=float32)
    other = save_tiny_model(tmp_path / "other", seed=1)
    names = resolve_model(str(tiny_model)), resolve_model(str(tmp_path / "adapter"))
    LabelModel(*names, "none", "").check()
    with pytest.raises(ValueError, match=r"belongs to another base than other: it was trained on tiny"):
        LabelModel(resolve_model(str(other)), names[1], "none", "").check()
    with pytest.raises(ValueError, match=r"adapter adapter belongs to another base than other: it was trained on tiny"):
        load_model(other, adapter_dir=tmp_path / "adapter", device=cpu, dtype=float32)


def test_a_quantised_base_is_refused() -> None:
    shipped = Path(__file__).parents[4] / "relevance" / "small_model"
    with pytest.raises(ValueError, match="is an int8 checkpoint, whose weights cannot be trained: give the base"):
        load_trainable(shipped, device=torch.device("cpu"), dtype=torch.float32)


def test_targets_are_smoothed_and_weighed() -> None:
    labels = np.array([0, 0, 0, 1, 2, 3])
    settings = FinetuningSettings(label_smoothing=0.2, class_weights="balanced")
    targets = label_targets(labels, settings, weights=np.array([1, 1, 1, 1, 1, 3.0]))
    assert targets[0] / targets[0].sum() == pytest.approx([0.85, 0.05, 0.05, 0.05])
    assert targets.sum(axis=1) == pytest.approx([0.5, 0.5, 0.5, 1.5, 1.5, 4.5])


def test_a_label_without_pairs_is_refused_unless_told() -> None:
    labels, weights = np.array([0, 1, 3]), np.ones(3)
    with pytest.raises(ValueError, match="the 3 training pairs have none labelled complement: label some"):
        label_targets(labels, FinetuningSettings(), weights=weights)
    label_targets(labels, FinetuningSettings(allow_missing_labels=True), weights=weights)


def test_validation_keeps_whole_queries_back(tmp_path: Path) -> None:
    pairs = read_evaluation_pairs(str(write_learnable_pairs(tmp_path / "pairs.csv", num_queries=20)))
    training, validation = split_validation(pairs, FinetuningSettings(validation_fraction=0.25))
    assert validation is not None
    assert (len(training), len(validation)) == (75, 25)
    assert not set(training.queries) & set(validation.queries)


def test_weights_of_the_file_reach_the_targets(tmp_path: Path, encoder: PromptEncoder) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(
        "query_id,query,product_id,title,label,weight\n"
        "a,red shoe,1,Shoe,E,2\nb,blue hat,2,Hat,S,\nc,lamp,3,Lamp,C,0.5\nd,pan,4,Mug,I,1\n"
    )
    pairs = read_evaluation_pairs(str(path))
    assert pairs.weights.tolist() == [2, 1, 0.5, 1]
    targets = label_targets(pairs.labels, FinetuningSettings(), weights=pairs.weights)
    examples = GroupedExamples(pairs.titles, pairs.queries, targets).epoch(encoder, 0)
    assert sum(example.targets.sum() for example in examples) == pytest.approx(4.5)
    path.write_text(path.read_text().replace(",2\n", ",-2\n"))
    with pytest.raises(ValueError, match="column weight: expected numbers of 0 or more"):
        read_evaluation_pairs(str(path))


def test_what_judges_neither_trains_nor_chooses_the_checkpoint_and_shares_no_title(tmp_path: Path) -> None:
    path = write_learnable_pairs(tmp_path / "pairs.csv", num_queries=40)
    lines = path.read_text().splitlines()
    # Every query meets a product that another query meets too, written in another way.
    for number in range(1, len(lines), 5):
        query_id, query, product_id, _, label = lines[number].split(",")
        lines[number] = f"{query_id},{query},{product_id},{'Shared-lamp' if number % 2 else 'shared LAMP'},{label}"
    path.write_text("\n".join(lines))
    settings = FinetuningSettings(validation_fraction=0.2)
    rest, judged = split_judged(read_evaluation_pairs(str(path)), settings)
    training, validation = split_validation(rest, settings)
    parts = (training, validation, judged)
    assert all(len(part) for part in parts)
    for one, other in itertools.permutations(parts, 2):
        assert shared_queries(one, other) == 0
        assert len(one.unseen_by(other)) == len(one)
    assert len({part.digest for part in parts}) == 3
    assert split_judged(rest, FinetuningSettings())[1] is None
    assert split_judged(rest, FinetuningSettings(judged_fraction=0.5))[1] is not None


def test_seeds_are_pooled_by_their_draws() -> None:
    first, second = np.linspace(0.1, 0.2, 101), np.linspace(0.7, 0.8, 101)
    draws = [np.concatenate([[middle], some]) for middle, some in ((0.15, first), (0.75, second))]
    cells = [
        Cell("base", 10**6, 50, seed, some[0], some[1], some[-1], list(some), 0.5, 0.1, 3)
        for seed, some in enumerate(draws)
    ]
    (row,) = [line for line in sweep_table(cells).splitlines() if line.startswith("| base |") and "M" in line]
    low, high = (float(text) for text in row.split("|")[6].split(" to "))
    assert low < 0.2
    assert high > 0.7, "the mean of the ends would be 0.40 to 0.50"
    assert draw_sweep(cells).axes


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
    settings = TeachingSettings(taught_queries_per_title=2, label_repeats=2, teacher_share=0, catalogue_products=9)
    targets = np.eye(4, dtype=np.float32)[labelled.labels]
    taught = TaughtPairs(labelled, targets, weak_pairs(40), settings, seed=0, cache_dir="unused")
    first, again, second = (taught.epoch(encoder, number) for number in (0, 0, 1))
    assert [example.queries for example in first] == [example.queries for example in again]
    assert [example.queries for example in first] != [example.queries for example in second]
    assert len(first) == 109
    assert [example.targets[0].argmax() for example in first[:60]] == labelled.labels.tolist()
    assert [len(example.queries) for example in (first[0], first[60])] == [4, 3]
    short = settings.model_copy(update={"taught_epochs": 1})
    ending = TaughtPairs(labelled, targets, weak_pairs(40), short, seed=0, cache_dir="unused")
    assert [example.queries for example in ending.epoch(encoder, 0)] == [example.queries for example in first]
    alone = ending.epoch(encoder, 1)
    assert [example.targets.argmax(axis=1).tolist() for example in alone] == [[label] * 2 for label in labelled.labels]


def test_a_teacher_learns_from_others_pairs_what_labels_mean_and_from_its_own_how_often_they_are() -> None:
    own, judged, others = (draw_pairs(number, name) for number, name in ((24, "own"), (300, "judged"), (600, "others")))
    rare = np.flatnonzero((others.labels != LABELS.index("exact")) | (np.arange(600) % 8 == 0))

    def said(*some: LabelledTexts) -> np.ndarray:
        settings, targets = TeachingSettings(), np.eye(4, dtype=np.float32)[own.labels]
        taught = TaughtPairs(own, targets, weak_pairs(40), settings, seed=0, cache_dir="unused", others=some)
        return taught.probabilities(judged.queries, judged.titles)

    def right(probabilities: np.ndarray) -> float:
        return float((probabilities.argmax(axis=1) == judged.labels).mean())

    assert right(said(others)) > right(said()) + 0.05
    skewed = others.take(rare)
    assert (skewed.labels == 0).mean() < 0.1
    assert said(skewed).mean(axis=0)[0] > 0.25


def test_a_teacher_with_an_encoder_knows_what_no_spelling_tells(tiny_model: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)

    def texts(letters: str) -> list[str]:
        return [" ".join("".join(draw.choice(list(letters), 4)) for _ in range(3)) for _ in range(500)]

    queries, titles = texts("abcdefghijklm"), texts("nopqrstuvwxyz")
    encoder = resolve_model(str(tiny_model))
    encode = SentenceEncoder(encoder, cache_dir=str(tmp_path))
    likeness = (encode(queries, prefix="query: ") * encode(titles, prefix="passage: ")).sum(axis=1)
    labels = np.where(likeness > np.median(likeness), LABELS.index("exact"), LABELS.index("irrelevant"))
    learnt = LabelledTexts(queries[:300], titles[:300], labels[:300])
    weak = WeakPairs(queries[300:400], titles[300:400], np.zeros(100, dtype=bool))

    def right(named: ModelFiles | None) -> float:
        settings, targets = TeachingSettings(), np.eye(4, dtype=np.float32)[learnt.labels]
        taught = TaughtPairs(learnt, targets, weak, settings, seed=0, cache_dir=str(tmp_path), encoder=named)
        return float((taught.probabilities(queries[400:], titles[400:]).argmax(axis=1) == labels[400:]).mean())

    assert right(encoder) > 0.9
    assert right(None) < 0.7


def test_a_teacher_with_a_cross_encoder_reads_what_neither_spelling_nor_nearness_tells(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Whether a title names a part or the thing is in its words, not in what it shares with the query."""

    def pairs(start: int, count: int) -> LabelledTexts:
        numbers = range(start, start + count)
        titles = [f"pan {('lid', 'oak')[number % 2]} {number:04}" for number in numbers]
        labels = [LABELS.index(("complement", "exact")[number % 2]) for number in numbers]
        return LabelledTexts([f"pan {number % 7}" for number in numbers], titles, np.array(labels))

    own, others, judged = pairs(0, 40), pairs(1000, 160), pairs(3000, 100)
    shuffled = LabelledTexts(own.queries, own.titles, np.random.default_rng(0).permutation(own.labels))
    targets = np.eye(4, dtype=np.float32)[shuffled.labels]
    reading = CrossEncoderSettings(epochs=6, learning_rate=3e-3, head_learning_rate=3e-2)

    def said(reading: CrossEncoderSettings) -> np.ndarray:
        settings, encoder = TeachingSettings(cross_encoder=reading), resolve_model(str(tiny_model))
        taught = TaughtPairs(
            shuffled,
            targets,
            weak_pairs(40),
            settings,
            seed=0,
            cache_dir=str(tmp_path),
            encoder=encoder,
            others=[others],
        )
        return taught.probabilities(judged.queries, judged.titles)

    def right(probabilities: np.ndarray) -> float:
        return float((probabilities.argmax(axis=1) == judged.labels).mean())

    first = said(reading)
    assert right(first) > 0.8
    assert right(first) > right(said(CrossEncoderSettings())) + 0.1
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cross_encoders").iterdir()}
    np.testing.assert_array_equal(said(reading), first)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cross_encoders").iterdir()} == made
    with pytest.raises(RuntimeError, match=r"learnt nothing of 200 pairs: .*lower its learning_rate"):
        said(reading.model_copy(update={"learning_rate": 10.0, "head_learning_rate": 10.0}))


def test_folds_share_neither_query_nor_title() -> None:
    pairs = draw_pairs(100, "folds")
    for training, judged in split_folds(pairs, 5, seed=0):
        own, other = pairs.take(training), pairs.take(judged)
        assert not set(own.queries) & set(other.queries)
        assert not set(own.titles) & set(other.titles)


def test_weak_pairs_that_stand_among_the_judged_are_dropped() -> None:
    judged = LabelledTexts(["Red shoes!"], ["Shoe, Red (9)"], np.array([0]))
    weak = WeakPairs(["red SHOES", "hat", "hat"], ["Boot", "shoe red 9", "Cap"], np.array([True, False, True]))
    kept = weak.without(judged)
    assert (list(kept.titles), kept.is_substitute.tolist()) == (["Cap"], [True])


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("query,label\nshoes,exact\n")
    with pytest.raises(ValueError, match=r"pairs\.csv: expected the columns query, title, label, missing title"):
        read_labelled_pairs(str(path))


def test_a_quote_that_nobody_closed_swallows_no_row(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('query,title,label\ntv,"19 inch,exact\nbat,Bat,exact\nscreen,"27 inch,exact\nhat,Cap,exact\n')
    with pytest.raises(ValueError, match=r"pairs\.csv: line 2: a quote opens a value and is not closed"):
        read_labelled_pairs(str(path))
    path.write_text('query;title;label\ntv;"19 inch; ""flat""\nnew";exact\nbat;Bat;exact\n', encoding="utf-8-sig")
    found = read_labelled_pairs(str(path))
    assert (found.queries, found.titles) == (["tv", "bat"], ['19 inch; "flat"\nnew', "Bat"])


def test_a_weak_answer_in_another_case_counts_and_any_other_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weak.csv"
    path.write_text("query,title,is_substitute\na,b,Yes\nc,d,NO\ne,f,yes \n", encoding="utf-8")
    assert read_weak_pairs(str(path)).is_substitute.tolist() == [True, False, True]
    path.write_text("query,title,is_substitute\na,b,yes\nc,d,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"weak\.csv: row 2: expected is_substitute to be yes or no"):
        read_weak_pairs(str(path))


@pytest.mark.parametrize(("read", "last"), [(read_labelled_pairs, "label"), (read_weak_pairs, "is_substitute")])
def test_a_title_that_is_nothing_is_not_learnt(tmp_path: Path, read: Callable[[str], object], last: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"query,title,{last}\na,b,exact\nc,\\N,yes\n")
    with pytest.raises(ValueError, match=r"pairs\.csv: row 2: expected title, found nothing \(\\N\); correct it"):
        read(str(path))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_positions": 300}, r"has 300 positions, a prompt may take \d+ tokens: lower the budgets"),
        ({"vocab_size": 400}, r"has embeddings of 400 tokens, its tokeniser may write number [\d,]+: lay the"),
    ],
)
def test_a_base_that_the_prompt_does_not_fit_is_refused_before_it_is_trained(
    tmp_path: Path, changed: dict[str, int], message: str
) -> None:
    base = save_tiny_model(tmp_path / "base", weights=False)
    (base / "config.json").write_text(json.dumps({"model_type": "llama", **changed}))
    pairs = write_learnable_pairs(tmp_path / "pairs.csv", num_queries=4)
    source = FinetuneSource(base=str(base), input=str(pairs), output=str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=message):
        read_inputs(source, registry_uri=None)
