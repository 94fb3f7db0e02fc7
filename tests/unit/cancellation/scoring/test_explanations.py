"""Evidence: the turn that says it, the entry that shows it, the features with their values, and never words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from cancellation.decision.policy import load_policy
from cancellation.decision.verdicts import model_verdict, rules_verdict
from cancellation.events.event import Event, parse_event
from cancellation.scoring.explanations import explain_verdict
from cancellation.text.encoding import EncodedEvent
from tests.builders.cancellation_events import before, event_mappings, sample_event
from tests.builders.verdict_models import Scores, WordModel

POLICY = load_policy()
FORM = re.compile(r"chat\[\d+\]|fulfilment\[\d+\]|features: \w+=\S+ \w+(, \w+=\S+ \w+){0,2}")


def chat_event(*texts: str) -> Event:
    chat = [
        {"at": before(2000 - number), "sender": "seller" if number % 2 else "buyer", "text": text}
        for number, text in enumerate(texts)
    ]
    return parse_event({**sample_event(), "chat": chat})


def judged(event: Event, model: WordModel) -> dict[str, Any]:
    encoded = model.encoder.encode(event)
    scores = model.score([encoded])
    return model_verdict(
        event.event_id,
        event.market,
        scores.logits[0].tolist(),
        scores.factor_probabilities[0].tolist(),
        policy=POLICY,
        model=model.identity,
    )


def explained(event: Event, model: WordModel) -> dict[str, str | None]:
    verdict = explain_verdict(event, judged(event, model), model)
    return {factor["code"]: factor["evidence"] for factor in verdict["decision_factors"]}


def test_the_turn_that_says_it_is_the_evidence() -> None:
    event = chat_event("is it late", "no stock", "oh", "please cancel", "hurry")
    assert explained(event, WordModel()) == {"chat.asked_to_cancel": "chat[3]", "chat.out_of_stock": "chat[1]"}


def test_the_index_is_that_of_the_events_own_list() -> None:
    mapping = sample_event()
    mapping["chat"] = [
        {"at": before(100), "sender": "seller", "text": "please cancel"},
        {"at": before(900), "sender": "buyer", "text": "hello"},
    ]
    assert explained(parse_event(mapping), WordModel())["chat.asked_to_cancel"] == "chat[0]"


def test_the_sellers_turn_comes_before_a_buyers_that_repeats_it() -> None:
    assert explained(chat_event("hi", "please cancel"), WordModel())["chat.asked_to_cancel"] == "chat[1]"
    quoted = chat_event("on the phone you told me to cancel", "late")
    assert explained(quoted, WordModel())["chat.asked_to_cancel"] == "chat[0]"


def test_what_did_not_happen_has_no_place() -> None:
    model = WordModel(
        weights={"cancel": 4.0}, factor_words={}, factor_features={"chat.no_reply": "unanswered_wait_hours"}
    )
    assert explained(chat_event("cancel ?"), model)["chat.no_reply"].startswith("features: unanswered_wait_hours=")


def test_a_fulfilment_entry_is_evidence_for_what_was_done() -> None:
    model = WordModel(weights={"late": 4.0}, factor_words={"fulfilment.deadline_extended": "late"})
    mapping = {**sample_event(), "chat": []}
    mapping["fulfilment"] = [
        {"at": before(9000), "kind": "packed"},
        {"at": before(6000), "kind": "deadline_extended", "new_deadline_at": before(-90_000), "note": "late"},
    ]
    assert explained(parse_event(mapping), model) == {"fulfilment.deadline_extended": "fulfilment[1]"}


def test_features_are_evidence_with_their_raw_values_where_no_place_is() -> None:
    model = WordModel(
        weights={"cancel": 4.0}, factor_words={}, factor_features={"call.from_seller": "last_call_to_cancel_minutes"}
    )
    evidence = explained(chat_event("hi", "please cancel"), model)
    assert evidence == {"call.from_seller": "features: last_call_to_cancel_minutes=30 minutes"}


def test_where_the_factor_itself_does_not_move_the_score_decides() -> None:
    model = WordModel(weights={"cancel": 4.0}, factor_words={"chat.off_platform": "[CLS]"})
    model.factor_words = {}
    model.factor_features = {}
    event = chat_event("hi", "please cancel")
    verdict = judged(event, model)
    verdict["decision_factors"] = [{"code": "chat.off_platform", "probability": 0.9, "evidence": None}]
    (factor,) = explain_verdict(event, verdict, model)["decision_factors"]
    assert factor["evidence"] == "chat[1]"


def test_one_call_of_the_model_and_none_for_a_verdict_without_an_action() -> None:
    model = WordModel()
    event = chat_event("hi", "please cancel")
    verdict = judged(event, model)
    model.calls = 0
    explain_verdict(event, verdict, model)
    assert model.calls == 1
    assert explain_verdict(event, {**verdict, "action": "none"}, model) == {**verdict, "action": "none"}
    rules = {**rules_verdict(event, policy=POLICY, source="rules"), "action": "investigate"}
    assert explain_verdict(event, rules, model) == rules
    assert model.calls == 1


def test_a_chat_of_a_thousand_messages_is_explained_by_a_bounded_number_of_variants() -> None:
    model = WordModel(max_tokens=512)
    event = chat_event(*(["ok"] * 997), "x", "y", "please cancel")
    assert event.chat[-1].sender == "seller"
    variants: list[int] = []
    score = model.score
    model.score = lambda events: variants.append(len(events)) or score(events)  # type: ignore[method-assign]
    assert explained(event, model)["chat.asked_to_cancel"] == "chat[999]"
    assert max(variants) <= 1 + 64 + 68


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(event_mappings())
def test_evidence_of_any_event_is_a_place_of_it_or_features(mapping: dict[str, Any]) -> None:
    event = parse_event(mapping)
    model = WordModel(
        weights={}, factor_features={"seller.overloaded": "concurrent_order_count", "seller.inactive": "message_count"}
    )
    verdict = {**judged(event, model), "action": "investigate"}
    for factor in explain_verdict(event, verdict, model)["decision_factors"]:
        assert factor["evidence"] is None or FORM.fullmatch(factor["evidence"])
        if factor["evidence"] and factor["evidence"].startswith("chat"):
            assert int(factor["evidence"][5:-1]) < len(event.chat)


@pytest.mark.parametrize("word", ["please", "cancel"])
def test_no_word_of_the_chat_is_in_the_evidence(word: str) -> None:
    assert all(word not in (text or "") for text in explained(chat_event("hi", "please cancel"), WordModel()).values())


@pytest.mark.parametrize(("market", "evidence"), [("TH", "chat[1]"), ("SG", None)])
def test_a_class_that_the_market_does_not_know_moves_no_score(market: str, evidence: str | None) -> None:
    class Unsure(WordModel):
        """A word makes it undecided, and nothing else: in a market of two classes the score is as before."""

        def score(self, events: Sequence[EncodedEvent]) -> Scores:
            scores = super().score(events)
            late = self.encoder.tokenizer.token_to_id("late")
            scores.logits[:, 2] -= [4.0 * event.token_ids.count(late) for event in events]
            return scores

    model = Unsure(weights={}, factor_words={}, bias=2.0)
    event = replace(chat_event("hi", "late"), market=market)
    verdict = {**judged(event, model), "action": "investigate"}
    verdict["decision_factors"] = [{"code": "chat.off_platform", "probability": 0.9, "evidence": None}]
    (factor,) = explain_verdict(event, verdict, model)["decision_factors"]
    assert factor["evidence"] == evidence
