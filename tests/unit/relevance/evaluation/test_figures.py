"""Figures that can be reckoned by hand, oracles that others wrote, and what is said where a figure is missing."""

from __future__ import annotations

import csv
from pathlib import Path

import krippendorff
import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from cluster.statistics.bootstrap import GroupBootstrap
from relevance.agreement import alphas_from_coincidences
from relevance.evaluation.baselines import LabelledTexts, baseline_predictions
from relevance.evaluation.figures import (
    EvaluationSettings,
    measure_labels,
    measure_people,
    paired_alpha_difference,
)
from relevance.evaluation.page import render_evaluation, verdict
from relevance.evaluation.pairs import (
    TIED,
    EvaluationPairs,
    query_digests,
    read_evaluation_pairs,
    refuse_overlap,
    shared_queries,
)
from relevance.evaluation.predictions import Predictions, read_scores
from relevance.evaluation.report import evaluation_files
from relevance.evaluation.run import Evaluation, judge
from relevance.evaluation.slices import find_slices
from relevance.labels import LABELS
from tests.builders.committed_scores import commit_scores

SETTINGS = EvaluationSettings(bootstrap_samples=200, min_slice_pairs=10)
COLUMNS = ("query_id", "query", "product_id", "title", "label")


def random_labels(n: int, *, seed: int = 0, right: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.choice(4, size=n, p=[0.5, 0.3, 0.05, 0.15])
    return labels, np.where(draw.random(n) < right, labels, draw.integers(4, size=n))


def bootstrap(groups: np.ndarray, samples: int = 300) -> GroupBootstrap:
    return GroupBootstrap(groups, samples=samples, seed=1)


def write_csv(path: Path, rows: list[dict[str, str]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def labelled_rows(n: int = 60, *, seed: int = 0) -> list[dict[str, str]]:
    labels, _ = random_labels(n, seed=seed)
    return [
        {
            "query_id": f"q{number // 2}",
            "query": f"red shoes {number // 2}",
            "product_id": f"p{number}",
            "title": f"Nolo Red Shoes {number}",
            "label": LABELS[label],
        }
        for number, label in enumerate(labels)
    ]


def predictions(pairs: EvaluationPairs, said: np.ndarray, *, sure: float = 0.7) -> Predictions:
    probabilities = np.full((len(said), 4), (1 - sure) / 3)
    probabilities[np.arange(len(said)), said] = sure
    return Predictions("tiny/1:none", "digest", "f00", probabilities, np.ones(len(pairs), bool), 1.5)


def test_figures_are_those_of_other_peoples_code() -> None:
    labels, said = random_labels(400)
    figures = measure_labels(labels, said, bootstrap(np.arange(400)))
    for level in ("nominal", "ordinal"):
        expected = krippendorff.alpha([labels, said], level_of_measurement=level, value_domain=range(4))
        name = "alpha" if level == "nominal" else "alpha_ordinal"
        assert figures[name].value == pytest.approx(expected, abs=1e-12)
    assert figures["f1_exact"].value == pytest.approx(f1_score(labels == 0, said == 0))
    for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert figures[f"{name}_macro"].value == pytest.approx(score(labels, said, average="macro"))
        each = score(labels, said, average=None)
        assert [figures[f"{name}.{label}"].value for label in LABELS] == pytest.approx(each.tolist())
    assert all(figure.low <= figure.value <= figure.high for figure in figures.values())


@pytest.mark.parametrize("ordinal", [False, True])
def test_alphas_of_many_matrices_at_once(ordinal: bool) -> None:
    level = "ordinal" if ordinal else "nominal"
    draw = np.random.default_rng(3)
    ratings = draw.integers(4, size=(20, 2, 30))
    coincidences = np.array(
        [sum(np.eye(4)[a][:, None] * np.eye(4)[b] for a, b in zip(*r, strict=True)) for r in ratings]
    )
    alphas = alphas_from_coincidences(coincidences + coincidences.transpose(0, 2, 1), ordinal=ordinal)
    expected = [krippendorff.alpha(r, level_of_measurement=level, value_domain=range(4)) for r in ratings]
    assert alphas == pytest.approx(expected, abs=1e-12)


def test_a_label_without_examples_is_missing_and_not_zero() -> None:
    labels, said = np.array([0, 1, 0, 1, 3]), np.array([0, 1, 1, 1, 0])
    figures = measure_labels(labels, said, bootstrap(np.arange(5)))
    for name in ("f1.complement", "recall.complement", "precision.complement", "f1_macro", "recall_macro"):
        assert figures[name].value is None
        assert figures[name].missing == "no pair is labelled complement by people"
    assert figures["precision.irrelevant"].missing == "no pair is labelled irrelevant by the model, precision needs one"
    assert figures["recall.irrelevant"].value == 0
    assert figures["f1.irrelevant"].value == 0
    assert figures["alpha"].value is not None


def test_intervals_take_queries_whole() -> None:
    """Pairs that are copies of each other bring no certainty: ten copies of each query, the same interval."""
    labels, said = random_labels(80)
    one = measure_labels(labels, said, bootstrap(np.arange(80), 2000))["accuracy"]
    copies = measure_labels(np.repeat(labels, 10), np.repeat(said, 10), bootstrap(np.repeat(np.arange(80), 10), 2000))
    assert copies["accuracy"].low == pytest.approx(one.low)
    assert copies["accuracy"].high == pytest.approx(one.high)
    spread = np.sqrt(one.value * (1 - one.value) / 80)
    assert one.high - one.low == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_draws_do_not_depend_on_how_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, said = random_labels(50)
    whole = measure_labels(labels, said, bootstrap(np.arange(50)))
    monkeypatch.setattr("cluster.statistics.bootstrap._CHUNK_VALUES", 50 * 7)
    assert measure_labels(labels, said, bootstrap(np.arange(50))) == whole


def test_a_paired_difference_is_narrower_than_either_alpha() -> None:
    labels, better = random_labels(300, right=0.7)
    worse = np.where(np.arange(300) % 10 == 0, (better + 1) % 4, better)
    groups = np.arange(300) // 2
    difference = paired_alpha_difference(labels, better, worse, groups)
    alphas = [measure_labels(labels, said, bootstrap(groups, 2000))["alpha"] for said in (better, worse)]
    assert difference.value == pytest.approx(alphas[0].value - alphas[1].value)
    assert 0 < difference.low < difference.value < difference.high
    unpaired = np.hypot(*(alpha.high - alpha.low for alpha in alphas))
    assert difference.high - difference.low < 0.6 * unpaired
    reverse = paired_alpha_difference(labels, worse, better, groups)
    assert (reverse.low, reverse.high) == pytest.approx((-difference.high, -difference.low))
    same = paired_alpha_difference(labels, better, better, groups)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_model_as_good_as_a_person_equals_people() -> None:
    draw = np.random.default_rng(0)
    truth = draw.choice(4, size=600, p=[0.5, 0.3, 0.1, 0.1])
    raters = np.array([np.where(draw.random(600) < 0.8, truth, draw.integers(4, size=600)) for _ in range(4)])
    people, model = raters[:3].copy(), raters[3]
    people[draw.random(people.shape) < 0.3] = -1
    figures = measure_people(people, model, np.arange(600), samples=300, seed=0)
    assert figures is not None
    assert figures.people.value == pytest.approx(krippendorff_nominal(people[:, (people >= 0).sum(axis=0) >= 2]))
    assert figures.pairs == ((people >= 0).sum(axis=0) >= 2).sum()
    assert figures.difference.low < 0 < figures.difference.high
    majority = np.where(people[0] >= 0, people[0], truth)
    assert measure_people(majority[None], model, np.arange(600), samples=100, seed=0) is None


def krippendorff_nominal(ratings: np.ndarray) -> float:
    return krippendorff.alpha(np.where(ratings < 0, np.nan, ratings), level_of_measurement="nominal")


def test_baselines_learn_from_other_queries_alone() -> None:
    """A query whose own pairs have the only examples of a label is never given that label."""
    labels = np.array([0, 0, 1, 0, 1, 0, 2, 2])
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    texts = LabelledTexts([f"q{g}" for g in groups], ["title"] * 8, labels, groups)
    found = baseline_predictions(texts, None, num_folds=4, seed=0)
    assert set(found) == {"majority label", "word overlap"}
    assert 2 not in found["word overlap"][6:]
    assert (found["majority label"] == 0).all()
    assert baseline_predictions(texts.take(np.array([0, 1])), None, num_folds=4, seed=0) == {}
    single = baseline_predictions(texts, texts.take(np.array([0, 1])), num_folds=4, seed=0)
    assert (single["word overlap"] == 0).all()


def test_pairs_of_several_annotators_become_one_row_each(tmp_path: Path) -> None:
    base = {"query_id": "q", "query": "red shoes", "product_id": "p1", "title": "Red Shoes", "market": "SG"}
    given = [("p1", "exact", "ann"), ("p1", "E", "bob"), ("p1", "I", "cid"), ("p2", "E", "ann"), ("p2", "S", "bob")]
    rows = [base | {"product_id": p, "label": label, "annotator": who} for p, label, who in given]
    pairs = read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", rows))
    assert pairs.labels.tolist() == [0, TIED]
    assert pairs.ratings.tolist() == [[0, 0], [0, 1], [3, -1]]
    assert pairs.counts == {"read": 5, "unusable": 0, "tied": 1, "repeated": 0}
    assert pairs.markets == ["SG", "SG"]
    rows.append(rows[0] | {"label": "substitute"})
    with pytest.raises(ValueError, match="pair q/p1 has the labels exact and substitute by one annotator"):
        read_evaluation_pairs(write_csv(tmp_path / "twice.csv", rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "perfect"}, r"pairs.csv, row 2: unknown label 'perfect': expected one of exact, substitute"),
        ({"label": ""}, r"pairs.csv, row 2: no label: label the pair or take it out"),
    ],
)
def test_labels_outside_the_four_are_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    rows = labelled_rows(4)
    rows[1] |= change
    with pytest.raises(ValueError, match=message):
        read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", rows))


def test_a_file_without_labels_is_refused(tmp_path: Path) -> None:
    rows = [{name: row[name] for name in COLUMNS[:-1]} for row in labelled_rows(4)]
    with pytest.raises(ValueError, match="column 'label' is missing: people's labels are needed"):
        read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", rows))


def test_unusable_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = labelled_rows(6)
    rows[0]["query"] = " "
    rows.append(rows[5].copy())
    pairs = read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", rows))
    assert (len(pairs), pairs.counts["unusable"], pairs.counts["repeated"]) == (5, 1, 1)


def test_ids_that_name_two_pairs_are_refused(tmp_path: Path) -> None:
    """As where each market counts its own: one of the two would be gone, and the other have both labels."""
    rows = labelled_rows(4)
    rows.append(rows[0] | {"title": "Garden hose 20 m"})
    with pytest.raises(ValueError, match=r"pairs\.csv: pair .* stands there with two texts: .* the market in front"):
        read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", rows))


@pytest.mark.parametrize(("again", "told"), [("exact", False), ("irrelevant", True)])
def test_scores_of_two_pairs_under_the_same_ids_are_refused(tmp_path: Path, again: str, told: bool) -> None:
    of_whom = {"model_version": ["m"] * 3, "prompt_version": ["p"] * 3, "error": pa.nulls(3, pa.string())}
    scored = [("q0", "p0", "exact"), ("q1", "p1", "exact"), ("q0", "p0", again)]
    url = commit_scores(tmp_path, "ds=2026-11-21", scored, more=of_whom)
    rows = pa.table({"query_id": ["q0"], "product_id": ["p0"]})
    if told:
        with pytest.raises(ValueError, match="pairs of the same ids with different labels"):
            read_scores(rows, url)
    else:
        assert read_scores(rows, url).labels.tolist() == [0]


def test_an_overlap_is_refused_however_the_query_is_written(tmp_path: Path) -> None:
    pairs = read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", labelled_rows(6)))
    rows = labelled_rows(40)[20:]
    rows[0] |= {"query_id": "other", "query": "  RED   Shoes 2"}
    training = read_evaluation_pairs(write_csv(tmp_path / "train.csv", rows))
    with pytest.raises(ValueError, match="shares 1 of its 3 queries with the training set"):
        refuse_overlap(pairs, training, allow=False)
    assert refuse_overlap(pairs, training, allow=True) == 1


def test_slices_cover_what_they_name(tmp_path: Path) -> None:
    rows = [row | {"brand": "Nolo", "market": "SG" if i < 4 else "VN"} for i, row in enumerate(labelled_rows(10))]
    rows[0]["query"] = rows[1]["query"] = "NOLO shoes"
    rows[2]["query"] = "shoes"
    pairs = read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", rows))
    found = {(kind, name): int(mask.sum()) for kind, name, mask in find_slices(pairs)}
    assert found[("brand", "query names a brand")] == 2
    assert found[("market", "SG")] == 4
    assert found[("query length", "1 word")] == 1
    assert found[("products per query", "2 to 5")] == 8
    assert ("brand", "query names a brand") not in {
        part[:2] for part in find_slices(read_evaluation_pairs(write_csv(tmp_path / "plain.csv", labelled_rows(4))))
    }


def evaluated(tmp_path: Path, *, shared: int | None = 0, right: float = 0.9) -> Evaluation:
    pairs = read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", labelled_rows(120)))
    _, said = random_labels(120, right=right)
    return judge(pairs, predictions(pairs, said), SETTINGS, shared_queries=shared)


def test_an_evaluation_says_everything_of_one_model(tmp_path: Path) -> None:
    evaluation = evaluated(tmp_path)
    assert evaluation.counts["judged"] == 120
    assert evaluation.counts["queries"] == 60
    assert sum(map(sum, evaluation.confusion)) == 120
    assert list(evaluation.comparison) == ["model", "majority label", "word overlap"]
    assert evaluation.comparison["model"]["alpha"] == evaluation.figures["alpha"]
    assert {part.kind for part in evaluation.slices} == {"query length", "products per query", "rare label"}
    rare = next(part for part in evaluation.slices if part.kind == "rare label")
    assert rare.figures["f1"] == evaluation.figures[f"f1.{rare.name.partition(' ')[0]}"]
    metrics = evaluation.metrics()
    assert metrics["alpha.low"] < metrics["alpha"] < metrics["alpha.high"]
    fine, sentence = verdict(evaluation)
    assert fine
    assert sentence.startswith(f"Alpha {evaluation.figures['alpha'].value:.3f}, from ")


def test_pairs_that_the_model_did_not_label_are_counted_and_left_out(tmp_path: Path) -> None:
    pairs = read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", labelled_rows(40)))
    said = predictions(pairs, pairs.labels)
    said.labelled[:10] = False
    evaluation = judge(pairs, said, SETTINGS)
    assert (evaluation.counts["judged"], evaluation.counts["unlabelled"]) == (30, 10)
    said.labelled[:] = False
    with pytest.raises(ValueError, match="none of 40 pairs has both a label by people and one by the model"):
        judge(pairs, said, SETTINGS)


def test_the_page_shows_no_texts_and_asks_nobody(tmp_path: Path) -> None:
    evaluation = evaluated(tmp_path)
    files = evaluation_files(evaluation, {"input": "pairs.csv"})
    page = files["evaluation.html"].decode()
    assert "red shoes" not in page.lower()
    assert "http://" not in page
    assert "https://" not in page
    assert f"{evaluation.figures['alpha'].value:.3f}" in page
    assert "not to be trusted" not in page.lower()
    assert b"Not to be trusted: 3 queries" in evaluation_files(evaluated(tmp_path, shared=3), {})["evaluation.html"]


def test_the_page_of_an_evaluation_with_nearly_nothing(tmp_path: Path) -> None:
    from cluster.provenance import collect_provenance

    pairs = read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", labelled_rows(2)))
    evaluation = judge(pairs, predictions(pairs, np.array([0, 3])), SETTINGS)
    page = render_evaluation(evaluation, settings={}, provenance=collect_provenance()).decode()
    assert "Too few queries to fit a temperature" in page
    assert evaluation.calibration.temperature is None


def test_where_people_and_model_know_one_label_alpha_is_missing_and_says_why(tmp_path: Path) -> None:
    rows = [row | {"label": "exact"} for row in labelled_rows(80)]
    pairs = read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", rows))
    evaluation = judge(pairs, predictions(pairs, pairs.labels), SETTINGS, shared_queries=0)
    parts = [part.figures["alpha"] for part in evaluation.slices if part.figures]
    for figure in (evaluation.figures["alpha"], evaluation.figures["alpha_ordinal"], *parts):
        assert (figure.value, figure.missing) == (None, "only one label occurs")
    assert not verdict(evaluation)[0]
    difference = paired_alpha_difference(pairs.labels, pairs.labels, pairs.labels, pairs.groups)
    assert (difference.value, difference.missing) == (None, "only one label occurs")


@pytest.mark.parametrize("other", ["red-shoes 2", "Red shoes: 2!", "ＲＥＤ shoes 2", "red  SHOES 2"])
def test_a_query_is_the_same_however_it_is_written(tmp_path: Path, other: str) -> None:
    rows = labelled_rows(8)
    assert rows[4]["query"] == "red shoes 2"
    rows[0]["query"] = other
    pairs = read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", rows))
    assert pairs.groups[0] == pairs.groups[4]
    alone = pairs.take(np.arange(len(pairs)) == 0)
    assert shared_queries(alone, pairs.take(np.arange(len(pairs)) == 4)) == 1
    assert query_digests([other]) == query_digests(["red shoes 2"])
    assert len(pairs.take(np.arange(len(pairs)) > 3).unseen_by(alone)) < 4


def test_queries_that_differ_in_a_vowel_sign_are_two_and_signs_alone_are_a_query() -> None:
    assert len(query_digests(["कि", "का", "!!", "??", "c", "d"])) == 6


def test_a_digest_is_of_the_pairs_that_were_used(tmp_path: Path) -> None:
    pairs = read_evaluation_pairs(write_csv(tmp_path / "pairs.csv", labelled_rows(20)))
    half = pairs.take(np.arange(20) < 10)
    again = read_evaluation_pairs(write_csv(tmp_path / "half.csv", labelled_rows(20)[:10]))
    assert half.digest == again.digest != pairs.digest
    assert pairs.take(np.ones(20, bool)).digest == pairs.digest
