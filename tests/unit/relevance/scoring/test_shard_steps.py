import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from relevance.engines.interface import LabelScores, TokenBatch
from relevance.pairs.pair import clean_pairs
from relevance.prompting.fast_tokenizer import FastTokenizer
from relevance.prompting.prompts import PromptEncoder, load_prompt_settings
from relevance.scoring.shard_steps import COMPUTE, NOT_FINITE, finish_block, poison_block, prepare_shard, score_block
from tests.builders.fakes import FakeEngine


@pytest.fixture(scope="module")
def encoder(tiny_model) -> PromptEncoder:
    return PromptEncoder(FastTokenizer(tiny_model), load_prompt_settings(tiny_model))


def _nothing(digests: pa.Array) -> tuple[np.ndarray, ...]:
    return np.zeros(len(digests), bool), np.zeros((len(digests), 4), np.float32), np.zeros(len(digests), np.float32)


def _pairs(rows: list[tuple]) -> pa.Table:
    query_ids, queries, product_ids, titles, labels = zip(*rows, strict=True)
    table = {"query_id": query_ids, "query": queries, "product_id": product_ids, "title": titles, "label": labels}
    return clean_pairs(pa.table({name: list(column) for name, column in table.items()}), max_text_bytes=1000)


ROWS = [
    ("q1", "blue bottle", "p2", "Steel bottle", "exact"),
    ("q2", "wall clock", "p1", "Rustic wall clock", "exact"),
    ("q1", "blue bottle", "p1", "Rustic wall clock", "irrelevant"),
    ("q2", "wall clock", "p1", "Rustic wall clock", "irrelevant"),
    ("q3", "", "p1", "Rustic wall clock", None),
    ("q4", "bottle " * 120, "p2", "Steel bottle", None),
    ("q5", "steel", "p2", "Steel bottle", None),
]


def _score(encoder: PromptEncoder, rows: list[tuple], lookup=_nothing, engine=None) -> tuple[pa.Table, dict]:
    block = prepare_shard(_pairs(rows), encoder, lookup)
    block = score_block(block, engine or FakeEngine(), encoder.guidelines_ids)
    return finish_block(block, model_version="m", prompt_version="p")


def test_rows_that_were_none_are_counted_by_kind_and_an_engine_by_its_words(encoder: PromptEncoder) -> None:
    rows = _pairs(ROWS)
    said = pa.array([f"a.csv line {n}: 3 columns, expected 4" if n < 2 else None for n in range(len(rows))])
    rows = rows.set_column(rows.column_names.index("error"), "error", said)
    block = poison_block(prepare_shard(rows, encoder, _nothing), "engine: it died on line 5: no memory")
    _, figures = finish_block(block, model_version="m", prompt_version="p")
    assert figures["errors"]["3 columns, expected 4"] == 2
    assert figures["errors"]["engine: it died on line 5: no memory"] == figures["poisoned"] > 0


def test_every_row_comes_out_once_and_is_counted(encoder: PromptEncoder) -> None:
    table, figures = _score(encoder, ROWS)
    assert sorted(zip(*[table[name].to_pylist() for name in ("query_id", "product_id")], strict=True)) == sorted(
        (row[0], row[2]) for row in ROWS
    )
    assert [figures[name] for name in ("read", "labelled", "reused", "repeated", "failed")] == [7, 4, 0, 1, 2]
    assert figures["errors"] == {"query: blank": 1, "query: longer than its budget of 96 tokens": 1}
    failed = table.filter(pa.array([error is not None for error in table["error"].to_pylist()]))
    assert set(failed["label"].to_pylist()) == set(failed["p_exact"].to_pylist()) == {None}
    assert sum(figures["labels"].values()) == 5
    assert np.sum(figures["confusion"]) == 4


def test_a_repeated_key_takes_the_first_ones_label(encoder: PromptEncoder) -> None:
    table, _ = _score(encoder, ROWS)
    rows = [row for row in table.to_pylist() if (row["query_id"], row["product_id"]) == ("q2", "p1")]
    assert len(rows) == 2
    assert rows[0] == rows[1]
    alone, figures = _score(encoder, [ROWS[1]])
    assert alone.to_pylist()[0] == rows[0]
    assert figures["conflicting"] == 0


def test_equal_ids_of_other_texts_take_nobody_elses_label(encoder: PromptEncoder) -> None:
    """Where each market counts its own products and queries, the same two numbers name two pairs."""
    of_markets = [
        ("1", "red running shoes", "7", "Red running shoes for men", None),
        ("1", "kitchen knife set", "7", "Garden hose 20 m", None),
        ("1", "red running shoes", "7", "Red running shoes for men", None),
    ]
    table, figures = _score(encoder, of_markets)
    alone = [_score(encoder, [row])[0]["p_exact"][0].as_py() for row in of_markets[:2]]
    assert sorted(table["p_exact"].to_pylist()) == pytest.approx(sorted([alone[0], alone[0], alone[1]]))
    assert [figures[name] for name in ("labelled", "repeated", "conflicting")] == [2, 1, 1]


def test_equal_texts_under_different_keys_are_computed_once(encoder: PromptEncoder) -> None:
    rows = [("q1", "clock", "p1", "Wall clock", None), ("q2", "clock", "p1", "Wall clock", None)]
    rows += [("q3", "clock", "p1", "Wall clock", None), ("q3", "clock", "p1", "Wall clock", None)]
    seen: list[int] = []

    class Watching(FakeEngine):
        def label_logprobs(self, batch: TokenBatch) -> LabelScores:
            seen.append(len(batch))
            return super().label_logprobs(batch)

    table, figures = _score(encoder, rows, engine=Watching())
    assert seen == [1]
    assert [figures[name] for name in ("labelled", "reused", "repeated")] == [1, 2, 1]
    assert len(set(table["p_exact"].to_pylist())) == 1
    assert table["p_exact"].null_count == 0


def test_probabilities_sum_to_one_and_label_is_the_largest(encoder: PromptEncoder) -> None:
    table, _ = _score(encoder, ROWS)
    for row in table.to_pylist():
        if row["error"] is None:
            shares = {name[2:]: row[name] for name in row if name.startswith("p_")}
            assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
            assert row["label"] == max(shares, key=shares.get)


def test_the_engine_sees_each_product_once_with_all_its_queries(encoder: PromptEncoder) -> None:
    seen: list[TokenBatch] = []

    class Watching(FakeEngine):
        def label_logprobs(self, batch: TokenBatch) -> LabelScores:
            seen.append(batch)
            return super().label_logprobs(batch)

    _score(encoder, ROWS, engine=Watching())
    (batch,) = seen
    assert len(batch.products) == 2
    assert batch.product_of_pair.tolist() == [0, 0, 1, 1]
    expected = encoder.encode_products(["\n\nProduct: Rustic wall clock", "\n\nProduct: Steel bottle"])
    assert list(batch.products) == expected


def test_known_pairs_are_not_computed(encoder: PromptEncoder) -> None:
    known: dict[bytes, np.ndarray] = {}
    first = prepare_shard(_pairs(ROWS), encoder, _nothing)
    scored = score_block(first, FakeEngine(), encoder.guidelines_ids)
    for content, *shares in zip(*(scored[name].to_pylist() for name in ("content", *_SHARES)), strict=True):
        known.setdefault(content, np.array(shares, np.float32))

    def lookup(digests: pa.Array) -> tuple[np.ndarray, ...]:
        found = np.array([digest in known for digest in digests.to_pylist()], bool)
        probabilities = [known.get(digest, np.zeros(4, np.float32)) for digest in digests.to_pylist()]
        return found, np.array(probabilities), np.full(len(found), 0.98, np.float32)

    class Unused(FakeEngine):
        def label_logprobs(self, batch: TokenBatch) -> LabelScores:
            raise AssertionError("nothing was left to compute")

    again, figures = _score(encoder, ROWS[:3], lookup, Unused())
    assert (figures["labelled"], figures["reused"]) == (0, 3)
    computed, _ = _score(encoder, ROWS[:3])
    assert again == computed


_SHARES = ("p_exact", "p_substitute", "p_complement", "p_irrelevant")


def test_pairs_whose_prompts_were_computed_whole_are_counted(encoder: PromptEncoder) -> None:
    class Unshared(FakeEngine):
        def label_logprobs(self, batch: TokenBatch) -> LabelScores:
            return replace(super().label_logprobs(batch), shared_prefix=False)

    assert _score(encoder, ROWS, engine=Unshared())[1]["unshared_pairs"] == 4
    assert _score(encoder, ROWS)[1]["unshared_pairs"] == 0


def test_a_poisoned_block_keeps_what_needs_no_engine(encoder: PromptEncoder) -> None:
    block = prepare_shard(_pairs(ROWS), encoder, _nothing)
    table, figures = finish_block(poison_block(block, "engine: died"), model_version="m", prompt_version="p")
    assert (figures["poisoned"], figures["failed"], figures["labelled"]) == (4, 7, 0)
    assert figures["errors"]["engine: died"] == 5
    assert len(table) == 7


def test_a_shard_of_bad_rows_alone(encoder: PromptEncoder) -> None:
    table, figures = _score(encoder, [ROWS[4]])
    assert table["error"].to_pylist() == ["query: blank"]
    assert figures["failed"] == 1


class Overflowing(FakeEngine):
    """Gives numbers that are none to the first pair, and no mass to the second where it is asked for one."""

    def __init__(self, number: float, *, spoil_mass: bool = False, with_mass: bool = True) -> None:
        self._number, self._spoil_mass, self._with_mass = number, spoil_mass, with_mass

    def label_logprobs(self, batch: TokenBatch) -> LabelScores:
        scores = super().label_logprobs(batch)
        scores.logprobs[0] = self._number
        if self._spoil_mass:
            scores.label_mass[1] = np.nan
        return replace(scores, label_mass=scores.label_mass if self._with_mass else None)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1000.0])
def test_a_number_that_is_none_is_never_a_label(encoder: PromptEncoder, number: float) -> None:
    table, figures = _score(encoder, ROWS, engine=Overflowing(number, spoil_mass=True))
    spoilt = [row for row in table.to_pylist() if row["error"] == NOT_FINITE]
    # A row that repeats the key of one that got no label has none either.
    assert len(spoilt) == figures["not_finite"] == figures["errors"][NOT_FINITE] == 3
    assert {(row["label"], row["p_exact"], row["label_mass"]) for row in spoilt} == {(None, None, None)}
    assert figures["read"] == sum(figures[name] for name in ("labelled", "reused", "repeated", "failed"))
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_what_is_no_label_is_not_left_to_remember(encoder: PromptEncoder) -> None:
    block = score_block(prepare_shard(_pairs(ROWS), encoder, _nothing), Overflowing(np.nan), encoder.guidelines_ids)
    computed = block.filter(pc.equal(block["origin"], COMPUTE))
    assert len(computed) == 3
    assert np.isfinite(computed["p_exact"].to_numpy()).all()


def test_without_label_mass_rows_have_labels_and_an_empty_mass(encoder: PromptEncoder) -> None:
    table, figures = _score(encoder, ROWS[:3], engine=Overflowing(-1.4, with_mass=False))
    assert table["error"].null_count == table["label_mass"].null_count == 3
    assert figures["label_mass_sum"] is None
    assert sum(figures["label_mass_histogram"]) == 0
    json.dumps(figures, allow_nan=False)


def test_a_stored_entry_that_is_no_label_is_computed_anew_and_counted(encoder: PromptEncoder) -> None:
    def lookup(digests: pa.Array) -> tuple[np.ndarray, ...]:
        found, probabilities, mass = _nothing(digests)
        probabilities[0] = np.nan
        return found, probabilities, mass

    table, figures = _score(encoder, ROWS[:3], lookup)
    assert (figures["ignored"], figures["labelled"], figures["failed"]) == (1, 3, 0)
    assert table == _score(encoder, ROWS[:3])[0]
