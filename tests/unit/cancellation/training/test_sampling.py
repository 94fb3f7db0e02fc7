from __future__ import annotations

import numpy as np
import pytest

from cancellation.simulation.message_acts import act_names
from cancellation.training.data import batches_by_length
from cancellation.training.labelled_source import check_label, read_examples
from cancellation.training.sampling import SamplingSettings, draw_epoch
from tests.builders.fusion_models import examples, small_set, small_tokenizer

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


def test_a_bad_label_in_a_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": {}, "label": "guilty"}\n')
    with pytest.raises(ValueError, match=r"events\.jsonl line 1: expected label to be one of induced"):
        list(read_examples(str(path)))
