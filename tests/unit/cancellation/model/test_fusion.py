from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from cancellation.events.event import parse_event
from cancellation.model.fusion import FUSION_FILE, WEIGHTS_FILE, load_fusion_model, save_fusion_model
from cancellation.model.text_encoder import keep_first_layers
from cancellation.simulation.message_acts import act_names
from cancellation.training.data import DropSettings
from cancellation.training.loop import LoopSettings, Trainer, num_steps
from cancellation.training.run import with_markets
from tests.builders.cancellation_events import event_mappings
from tests.builders.fusion_models import (
    encoded_set,
    examples,
    logits,
    small_encoder,
    small_model,
    small_set,
    small_tokenizer,
)

ENCODER = small_encoder()
DATA = small_set()
ROWS = np.arange(24)
VARIANTS = ("text", "features", "concat", "gated", "attention")
ALL = small_model("attention")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_one_batch_by_heart(variant):
    model = small_model(variant)
    loop = LoopSettings(learning_rate=0.01, label_smoothing=0.0, bf16=False, average_decay=0.0, warmup_fraction=0.0)
    model.add_act_head(len(act_names()))
    trainer = Trainer(model, loop)
    batch = DATA.batch(ROWS)
    for _ in range(70):
        trainer.step(batch, torch.device("cpu"), 10_000)
    learnt = logits(trainer.averaged_model(), DATA, ROWS)
    assert (learnt.argmax(1) == DATA.labels[ROWS]).mean() >= 0.95


def test_what_stops_a_training_counts_an_event_as_often_as_it_stands_for():
    twice, once = examples()[:20], examples()[20:40]
    weighted = encoded_set((*(replace(one, sampling_weight=2.0) for one in twice), *once))
    trainer = Trainer(small_model("features"), LoopSettings(bf16=False))
    said = [
        trainer.validate(data, torch.device("cpu"), 0, 1, 0.0)[1]
        for data in (weighted, encoded_set((*twice, *twice, *once)))
    ]
    for name in ("validation_loss", "validation_accuracy"):
        assert said[0][name] == pytest.approx(said[1][name], rel=1e-5)


@pytest.mark.parametrize("kind", ["modernbert", "deberta-v2", "xlm-roberta"])
def test_padding_changes_no_score_in_any_class_of_encoder(kind):
    model = small_model(kind=kind)
    together = logits(model, DATA, ROWS)
    alone = np.concatenate([logits(model, DATA, ROWS[row : row + 1]) for row in ROWS])
    assert np.abs(together - alone).max() < 1e-5


@pytest.mark.parametrize("kind", ["modernbert", "deberta-v2", "xlm-roberta"])
def test_an_encoder_cut_to_its_first_layers_reads_as_they_do(kind):
    encoder = small_model(kind=kind).text_encoder
    ids = torch.from_numpy(DATA.batch(ROWS[:4]).token_ids)
    states = encoder(input_ids=ids, output_hidden_states=True).hidden_states
    keep_first_layers(encoder, 1)
    again = encoder(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(again) == 2
    assert torch.equal(again[0], states[0])
    with pytest.raises(ValueError, match="has 1 layers"):
        keep_first_layers(encoder, 2)


@given(event_mappings())
@settings(max_examples=40, deadline=None)
def test_no_event_gives_nan(mapping):
    encoded = ENCODER.encode(parse_event(mapping))
    outputs = ALL(
        torch.tensor([encoded.token_ids]),
        torch.from_numpy(encoded.features[None]),
        torch.tensor([ALL.spec.market_index(encoded.market)]),
    )
    assert torch.isfinite(outputs.verdict_nc).all()
    assert torch.isfinite(outputs.factors_nf).all()


@pytest.mark.parametrize("encoding", ["linear", "piecewise"])
def test_missing_is_not_zero(encoding):
    model = small_model("features", feature_encoding=encoding)
    features = torch.zeros(2, 68)
    features[1] = torch.nan
    zero, missing = model(torch.zeros(2, 1, dtype=torch.long), features, torch.zeros(2, dtype=torch.long)).verdict_nc
    assert not torch.allclose(zero, missing)


def test_an_unknown_market_is_scored_by_the_learned_default():
    tokens, features = torch.tensor([[1, 5, 13]]), torch.zeros(1, 68)
    default = ALL(tokens, features, torch.tensor([ALL.spec.market_index("ZZ")])).verdict_nc
    known = ALL(tokens, features, torch.tensor([ALL.spec.market_index("TH")])).verdict_nc
    assert torch.isfinite(default).all()
    assert not torch.allclose(default, known)
    without = small_model("attention", market_embedding=False)
    rows = [without(tokens, features, torch.tensor([row])).verdict_nc for row in (0, 1)]
    assert torch.equal(*rows)


def test_a_new_market_begins_as_the_default_and_changes_no_other():
    wider = with_markets(ALL, ("TH", "MX")).eval()
    assert wider.spec.markets == ("TH", "ID", "BR", "MX")
    tokens, features = torch.tensor([[1, 5, 13]]), torch.zeros(1, 68)
    for market in ("TH", "ID", "BR", "ZZ"):
        row = torch.tensor([wider.spec.market_index(market)])
        assert torch.equal(wider(tokens, features, row).verdict_nc, ALL(tokens, features, row).verdict_nc)
    new, default = (wider(tokens, features, torch.tensor([row])).verdict_nc for row in (4, 0))
    assert torch.equal(new, default)


def test_weights_come_back_as_they_were_saved(tmp_path):
    model = small_model("attention")
    model.add_act_head(5)
    save_fusion_model(model, small_tokenizer(), tmp_path)
    loaded, tokenizer = load_fusion_model(tmp_path)
    assert loaded.acts is None
    assert np.array_equal(logits(model, DATA, ROWS), logits(loaded, DATA, ROWS))
    assert tokenizer.to_str() == small_tokenizer().to_str()


@pytest.mark.parametrize("name", [WEIGHTS_FILE, FUSION_FILE])
def test_an_incomplete_folder_is_refused(tmp_path, name):
    save_fusion_model(small_model("attention"), small_tokenizer(), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"expected .+ found none; train it anew"):
        load_fusion_model(tmp_path)


def test_dropped_modalities_are_dropped_whole():
    everything = DropSettings(text=1, features=1, market=1, token=0)
    batch = DATA.batch(ROWS, drop=everything, rng=np.random.default_rng(0))
    assert batch.token_ids.shape == (len(ROWS), 1)
    assert np.isnan(batch.features).all()
    assert not batch.markets.any()
    assert len(batch.acts) == 0


def test_steps_are_counted_from_events_and_epochs():
    assert num_steps(1000, LoopSettings(batch_size=64, epochs=1.5)) == 24


def test_what_is_saved_says_nothing_of_the_machine_it_came_from(tmp_path):
    model = small_model("attention")
    model.text_encoder.config._name_or_path = "/home/somebody/encoder"
    save_fusion_model(model, small_tokenizer(), tmp_path)
    assert not [path.name for path in tmp_path.iterdir() if b"/home/somebody" in path.read_bytes()]
    load_fusion_model(tmp_path)
