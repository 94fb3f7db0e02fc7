"""The simulation: reproducible, valid, labelled by its causes, and without a shortcut to the label."""

from __future__ import annotations

import json
import random
from collections import Counter
from importlib import resources

import jsonschema
import numpy as np
import pytest

from cancellation.decision.rules import judge
from cancellation.events.event import event_mapping, parse_event
from cancellation.events.factors import BUYER_FACTORS, FACTORS, SELLER_FACTORS, VERDICTS
from cancellation.events.labelled import LabelledEvent
from cancellation.events.markets import MARKETS
from cancellation.features.vector import feature_table, features
from cancellation.simulation.buyer_reasons import REASONS
from cancellation.simulation.seller_tactics import TACTICS
from cancellation.simulation.simulator import SimulationSettings, simulate, simulate_event
from cancellation.simulation.wording import LANGUAGES, Wording, compile_template, without_accents, wording
from cancellation.text.timeline import timeline

NUM_EVENTS = 2000


def drawn(seed: int = 0, **settings: object) -> list[LabelledEvent]:
    return list(simulate(SimulationSettings(**{"num_events": NUM_EVENTS, **settings}), seed))


@pytest.fixture(scope="module")
def train() -> list[LabelledEvent]:
    return drawn()


def test_the_same_seed_gives_the_same_events(train: list[LabelledEvent]) -> None:
    assert drawn(num_events=200) == train[:200]
    assert simulate_event(SimulationSettings(num_events=1), 0, 150) == train[150]
    assert drawn(seed=1, num_events=20) != train[:20]


def test_every_event_keeps_the_contract(train: list[LabelledEvent]) -> None:
    schema = json.loads(
        (resources.files("cancellation.events") / "schemas" / "cancellation_event.schema.json").read_text()
    )
    oracle = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    for labelled in train[:150]:
        oracle.validate(event_mapping(labelled.event, labelled.utc_offset_hours))
    for labelled in train:
        assert parse_event(event_mapping(labelled.event, labelled.utc_offset_hours)) == labelled.event


def test_no_text_gives_the_label_away(train: list[LabelledEvent]) -> None:
    names = {*VERDICTS, *FACTORS, *(cause.name for cause in (*TACTICS, *REASONS) if "_" in cause.name)}
    for labelled in train:
        text = json.dumps(event_mapping(labelled.event), ensure_ascii=False).lower()
        assert not [name for name in names if name in text]


def test_about_a_quarter_is_induced_more_in_some_markets_than_in_others(train: list[LabelledEvent]) -> None:
    shares = Counter(labelled.true_label for labelled in train)
    assert 0.21 < shares["induced"] / NUM_EVENTS < 0.29
    assert 0.05 < shares["inconclusive"] / NUM_EVENTS < 0.15
    markets = Counter(labelled.event.market for labelled in train)
    assert set(markets) == set(MARKETS)
    induced = Counter(labelled.event.market for labelled in train if labelled.true_label == "induced")
    assert induced["BR"] / markets["BR"] > induced["SG"] / markets["SG"]


def test_an_enriched_set_has_more_induced() -> None:
    enriched = drawn(num_events=400, induced_fraction=0.7)
    assert 0.55 < sum(labelled.true_label == "induced" for labelled in enriched) / 400 < 0.72


def test_factors_follow_from_what_happened(train: list[LabelledEvent]) -> None:
    seen = Counter(factor for labelled in train for factor in labelled.factors)
    assert set(seen) == set(FACTORS)
    for labelled in train:
        codes = set(labelled.factors)
        if labelled.true_label == "induced":
            assert codes
            assert codes <= set(SELLER_FACTORS)
        elif labelled.true_label == "not_induced":
            assert len(codes) == 1
            assert codes <= set(BUYER_FACTORS)
        else:
            assert not codes
    called = [labelled for labelled in train if "call.from_seller" in labelled.factors]
    assert all(any(call.caller == "seller" and call.answered for call in labelled.event.calls) for labelled in called)


def test_every_message_is_told_apart_by_what_it_does(train: list[LabelledEvent]) -> None:
    for labelled in train:
        assert len(labelled.message_acts) == len(labelled.event.chat)
        for acts, message in zip(labelled.message_acts, labelled.event.chat, strict=True):
            assert {act.partition(".")[0] for act in acts.split()} == {message.sender}
            assert all(act in wording("en").shared for act in acts.split())
    assert any(" " in acts for labelled in train for acts in labelled.message_acts)


def test_labels_are_noisy_at_the_set_rate(train: list[LabelledEvent]) -> None:
    wrong = sum(labelled.label != labelled.true_label for labelled in train) / NUM_EVENTS
    assert 0.015 < wrong < 0.05
    exact = drawn(num_events=300, label_noise=0.0)
    assert all(labelled.label == labelled.true_label for labelled in exact)


def test_a_trace_free_event_can_come_from_either_side(train: list[LabelledEvent]) -> None:
    sides = Counter(labelled.cause.partition(".")[0] for labelled in train if labelled.true_label == "inconclusive")
    assert min(sides["seller"], sides["buyer"]) > 20


def test_keywords_do_not_decide(train: list[LabelledEvent]) -> None:
    """Honest sellers say the words, guilty ones often do not, so the rules are far from right."""
    said = {verdict: [0, 0] for verdict in VERDICTS}
    for labelled in train:
        codes = set(judge(labelled.event).factors)
        said[labelled.true_label][0] += bool(codes & {"chat.asked_to_cancel", "chat.out_of_stock"})
        said[labelled.true_label][1] += 1
    assert said["not_induced"][0] / said["not_induced"][1] > 0.2
    assert said["induced"][0] / said["induced"][1] < 0.7
    assert said["not_induced"][0] > said["induced"][0]


def test_both_sides_use_the_same_words(train: list[LabelledEvent]) -> None:
    """Who wanted it first decides, so a request is no proof and a question or a denial none against it."""
    requests = {
        f"seller.{act}" for act in ("ask_cancel", "ask_indirect", "agree_cancel", "if_cannot_wait", "push_again")
    }
    wishes = {"buyer.plain_out", "buyer.accept_cancel", "buyer.should_i_cancel", "buyer.want_out_soft"}
    for verdict in ("induced", "not_induced"):
        chats = [set(" ".join(item.message_acts).split()) for item in train if item.true_label == verdict]
        assert sum(bool(acts & requests) for acts in chats) / len(chats) > 0.15
        assert sum(bool(acts & wishes) for acts in chats) / len(chats) > 0.2
    unclear = [item for item in train if item.true_label == "inconclusive"]
    assert sum(bool(item.event.chat) for item in unclear) / len(unclear) > 0.3


def test_an_order_late_and_unpacked_does_not_tell_who_wanted_out(train: list[LabelledEvent]) -> None:
    late = Counter(
        labelled.true_label
        for labelled in train
        if any(entry.kind == "deadline_missed" for entry in labelled.event.fulfilment)
    )
    assert min(late[verdict] for verdict in VERDICTS) / late.total() > 0.08


def test_no_feature_alone_decides(train: list[LabelledEvent]) -> None:
    """Were one number to separate the classes, a model would learn the generator instead of the trade."""
    table = feature_table([labelled.event for labelled in train])
    induced = np.array([labelled.true_label == "induced" for labelled in train])
    for values in table.T:
        known = ~np.isnan(values)
        if known.sum() > 200 and induced[known].sum() > 50:
            ranks = values[known].argsort().argsort()
            positive = induced[known]
            area = (ranks[positive].mean() - (positive.sum() - 1) / 2) / (~positive).sum()
            assert 0.3 < area < 0.7


def test_simulated_events_pass_through_everything_behind(train: list[LabelledEvent]) -> None:
    events = [labelled.event for labelled in train[:300]]
    np.testing.assert_array_equal(feature_table(events), np.stack([features(event) for event in events]))
    lengths = [len(timeline(event).segments) for event in events]
    assert min(lengths) >= 1
    assert 8 <= np.median([len(labelled.event.chat) for labelled in train if labelled.event.chat]) <= 16


def test_the_splits_keep_tactics_apart() -> None:
    held_out = {f"seller.{cause.name}" for cause in TACTICS if cause.held_out}
    held_out |= {f"buyer.{cause.name}" for cause in REASONS if cause.held_out}
    for split in ("train", "test_wordings"):
        assert not held_out & {labelled.cause for labelled in drawn(num_events=400, split=split)}
    tactics = {
        labelled.cause for labelled in drawn(num_events=400, split="test_tactics") if labelled.true_label == "induced"
    }
    assert tactics == {cause for cause in held_out if cause.startswith("seller.")}
    assert held_out < {labelled.cause for labelled in drawn(split="all")}


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_wordings_exist_for_every_act_and_are_no_others(language: str) -> None:
    grammar, reference = wording(language), wording("en")
    assert set(grammar.shared) == set(grammar.held_out) == set(reference.shared)
    for act, templates in grammar.shared.items():
        assert templates
        assert grammar.held_out[act]
        if grammar.held_out[act] != templates:
            assert not set(grammar.held_out[act]) & set(templates), act
    assert {"so", "seller_open", "seller_close", "buyer_open", "buyer_close"} <= set(grammar.slots)
    for slot in ("item", "other_item", "variant", "own_life", "fake_reason"):
        assert len(grammar.slots[slot]) == len(reference.slots[slot])


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_wording_says_a_label_or_leaves_a_bracket(language: str) -> None:
    grammar, rng = wording(language), random.Random(0)
    for act in grammar.shared:
        for _ in range(20):
            text = grammar.say(act, rng, held_out=None)
            assert text or act.endswith("thanks")
            assert not set("{}|") & set(text)


def test_simplified_characters_are_the_same_wordings() -> None:
    taipei, singapore = wording("zh"), wording("zh-Hans")
    said = [grammar.say("seller.ask_cancel", random.Random(3)) for grammar in (taipei, singapore)]
    assert len(said[0]) == len(said[1])
    assert "這" in "".join(taipei.say("seller.ask_cancel", random.Random(i)) for i in range(20))
    assert "這" not in "".join(singapore.say("seller.ask_cancel", random.Random(i)) for i in range(20))


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_and_answers_are_about_the_same(language: str) -> None:
    shared = wording(language).shared
    assert len(shared["buyer.ask_product"]) == len(shared["seller.answer_product"]) == len(shared["seller.answer_no"])


def test_templates_are_composed() -> None:
    grammar = Wording("en", {"a.b": [compile_template("(x|y (z|)) {s}")]}, {}, {"s": [("w",)]}, {}, {})
    said = {grammar.say("a.b", random.Random(seed)) for seed in range(50)}
    assert said == {"x w", "y w", "y z w"}


@pytest.mark.parametrize("template", ["(a|b", "a|b", "a)", "{a", "((a)"])
def test_a_template_with_brackets_that_do_not_match_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="expected matching brackets and choices only within them"):
        compile_template(template)


def test_an_unknown_market_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^markets: expected some of ID, TH, .*, found ZZ$"):
        drawn(markets=("ID", "ZZ"))


def test_accents_go_when_the_keyboard_has_none() -> None:
    assert without_accents("đặt lại, não, güera") == "dat lai, nao, guera"
