from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cancellation.events.event import event_mapping
from cancellation.events.examples import check_label, read_examples
from cancellation.events.table import EVENT_SCHEMA, LABEL_SCHEMA, event_row
from cancellation.simulation.message_acts import act_names
from cancellation.simulation.simulator import SimulationSettings, simulate_event
from cancellation.training.data import batches_by_length
from cancellation.training.loop import LoopSettings, batch_loss
from cancellation.training.sampling import SamplingSettings, draw_epoch
from tests.builders.fusion_models import encoded_set, examples, small_model, small_set, small_tokenizer

LABELS = np.array([0] * 250 + [1] * 660 + [2] * 90)


def test_positives_are_shown_more_often_and_weights_undo_it():
    shown, totals = np.zeros(3), np.zeros(3)
    for seed in range(40):
        rows, weights = draw_epoch(LABELS, SamplingSettings(), np.random.default_rng(seed))
        assert len(rows) == len(LABELS)
        shown += np.bincount(LABELS[rows], minlength=3)
        totals += np.bincount(LABELS[rows], weights, minlength=3)
    assert shown[0] / shown.sum() == pytest.approx(0.6 * 0.25 + 0.4, abs=0.01)
    assert totals / 40 == pytest.approx(np.bincount(LABELS), rel=0.02)


def test_without_positives_an_epoch_is_random():
    rows, weights = draw_epoch(np.ones(50, int), SamplingSettings(), np.random.default_rng(0))
    assert sorted(rows) == list(range(50))
    assert np.all(weights == 1.0)


def test_balanced_classes_weigh_alike():
    rows, weights = draw_epoch(
        LABELS, SamplingSettings(random_fraction=1.0, class_balance=1.0), np.random.default_rng(0)
    )
    totals = np.bincount(LABELS[rows], weights, minlength=3)
    assert totals == pytest.approx(np.full(3, totals.mean()), rel=1e-5)


def test_batches_hold_every_row_once_and_similar_lengths():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 160, 1000)
    rows = rng.permutation(1000)
    batches = list(batches_by_length(rows, lengths, 32, rng))
    assert sorted(np.concatenate(batches)) == list(range(1000))
    spread = [np.ptp(lengths[rows[batch]]) for batch in batches]
    assert np.median(spread) < 20


def test_acts_stand_at_speakers_and_are_those_of_the_simulation():
    data, tokenizer = small_set(), small_tokenizer()
    batch = data.batch(np.arange(len(data)))
    spoken = {tokenizer.token_to_id(kind): kind.strip("[]").lower() for kind in ("[BUYER]", "[SELLER]", "[SYSTEM]")}
    assert len(batch.acts) > 100
    for event, place, act in batch.acts:
        side, _, name = act_names()[act].partition(".")
        assert spoken[int(batch.token_ids[event, place])] == side
        assert any(f"{side}.{name}" in message.split() for message in examples()[event].message_acts)


@pytest.mark.parametrize(("label", "factors"), [("guilty", ()), (None, ()), ("induced", ("chat.magic",))])
def test_labels_outside_the_contract_are_refused(label, factors):
    with pytest.raises(ValueError, match="expected label"):
        check_label(label, factors, "line 3")


def test_factors_that_nobody_looked_for_are_unknown_and_an_empty_list_says_none(tmp_path):
    drawn = simulate_event(SimulationSettings(), 11, 0)
    event = event_mapping(drawn.event, drawn.utc_offset_hours)
    labels = ({}, {"label_factors": None}, {"label_factors": []}, {"label_factors": ["chat.out_of_stock"]})
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps({"event": event, "label": "induced", **one}) + "\n" for one in labels))
    found = [example.factors for example in read_examples(str(path))]
    assert found == [None, None, (), ("chat.out_of_stock",)]
    table = pa.Table.from_pylist(
        [{**event_row(drawn.event), "label": "induced", "label_factors": one} for one in (None, [])],
        schema=pa.schema([*EVENT_SCHEMA, *LABEL_SCHEMA]),
    )
    pq.write_table(table, tmp_path / "events.parquet")
    assert [example.factors for example in read_examples(str(tmp_path / "events.parquet"))] == [None, ()]


def test_unknown_factors_teach_nothing_and_change_nothing_else():
    some = examples()[:8]
    silent = tuple(replace(one, factors=None) for one in some)
    settings, device = LoopSettings(act_weight=0.0, bf16=False), torch.device("cpu")

    def gradients(given):
        model = small_model()
        batch_loss(model, encoded_set(given).batch(np.arange(len(given))), device, settings).backward()
        return {name: weight.grad for name, weight in model.named_parameters()}

    def gradient_of_factors(given):
        found = gradients(given)
        return found["factors.weight"], found["verdict.weight"]

    factors, verdict = gradient_of_factors(silent)
    assert not factors.any()
    known_factors, known_verdict = gradient_of_factors(some)
    assert known_factors.any()
    assert torch.equal(verdict, known_verdict)
    half, _ = gradient_of_factors(some[:4] + silent[4:])
    alone, _ = gradient_of_factors(some[:4])
    torch.testing.assert_close(half, alone / 2)


def test_a_bad_label_in_a_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": {}, "label": "guilty"}\n')
    with pytest.raises(ValueError, match=r"events\.jsonl line 1: expected label to be one of induced"):
        list(read_examples(str(path)))


@pytest.mark.parametrize("factors", ["chat.no_reply", 1, {"chat.no_reply": 1}])
def test_factors_that_are_no_list_are_refused_as_that(factors: object) -> None:
    with pytest.raises(
        ValueError, match=r"^here: expected label_factors to be a list of codes, found \w+; correct it$"
    ):
        check_label("induced", factors, "here")
