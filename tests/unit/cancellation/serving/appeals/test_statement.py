"""The statement of reasons: what Art. 17 asks for, from the record alone."""

from __future__ import annotations

from typing import Any

import pytest

from cancellation.contact_data.logged_event import redact_event
from cancellation.events.factors import FACTORS
from cancellation.serving.appeals.case import OPEN, OVERTURNED, SELLER, UPHELD, WITH_REVIEWER, Case, Entry
from cancellation.serving.appeals.settings import AppealSettings
from cancellation.serving.appeals.statement import is_owed, statement_of_reasons
from tests.builders.decision_records import NOON
from tests.unit.cancellation.serving.appeals.cases import CHAT, contested

SETTINGS = AppealSettings(
    platform="Pasar", terms="clause 7.3 of the seller terms", contact="https://pasar.example/appeal"
)


def decided(factors: list[tuple[str, str | None]], **changes: Any) -> dict[str, Any]:
    decision = contested()
    named = [{"code": code, "probability": 0.9, "evidence": evidence} for code, evidence in factors]
    verdict = {**decision["verdict"], "action": "penalty", "decision_factors": named, **changes}
    return {**decision, "verdict": verdict}


def case(*entries: Entry) -> Case:
    opened = Entry(NOON, OPEN, SELLER, "", "I did not.")
    return Case("appeal-1", "e-000000", "BR", 1, NOON + 86_400, contested(), (opened, *entries))


def test_it_says_what_was_done_how_on_which_ground_and_how_to_contest() -> None:
    text = statement_of_reasons(decided([]), SETTINGS, None)["text"]
    for said in (
        "On 31 October 2026, 12:00 UTC Pasar put a penalty on your seller account in the market BR",
        "automated system (model m@1, policy p-1)",
        "75.0% likely. No person took part.",
        "clause 7.3 of the seller terms",
        "free of charge, through https://pasar.example/appeal, until 2 May 2027",
        "within 14 days",
        "out-of-court dispute settlement",
    ):
        assert said in text, text


def test_each_factor_has_a_fact_and_its_evidence_in_words() -> None:
    factors = [
        ("chat.asked_to_cancel", "chat[1]"),
        ("fulfilment.deadline_missed", "features: promised_slack_hours=-4 hours, mean_gap_minutes=576.667 minutes"),
        ("seller.inactive", None),
        ("chat.no_reply", "chat[17]"),
    ]
    statement = statement_of_reasons(decided(factors), SETTINGS, None)
    first, second, *unknown = statement["why"]
    assert (first["fact"], first["quote"]) == ("you asked the buyer to cancel", CHAT[1]["text"])
    assert first["evidence"] == "message of seller at 2026-10-31 11:05 (UTC)"
    assert second["quote"] is None
    assert second["evidence"].endswith(
        "had passed: -4 hours. Mean time between messages; missing below two: 576.667 minutes"
    )
    assert {one["evidence"] for one in unknown} == {"nothing single stands out; the data of the order as a whole"}
    assert (
        '1. you asked the buyer to cancel (message of seller at 2026-10-31 11:05 (UTC)) "sorry, please cancel"'
        in (statement["text"])
    )


@pytest.mark.parametrize("code", FACTORS)
def test_every_factor_has_words(code: str) -> None:
    (why,) = statement_of_reasons(decided([(code, None)]), SETTINGS, None)["why"]
    assert why["fact"]


def test_a_text_that_was_logged_by_digest_is_not_quoted() -> None:
    decision = decided([("chat.asked_to_cancel", "chat[1]")])
    decision["event"] = redact_event(decision["event"], "reference")
    (why,) = statement_of_reasons(decision, SETTINGS, None)["why"]
    assert (why["quote"], why["evidence"].endswith("(its text is kept only as a digest)")) == (None, True)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ((), "Your appeal appeal-1 of 31 October 2026, 12:00 UTC is being looked at; it is to be decided until 1 Nov"),
        ((Entry(NOON, WITH_REVIEWER, "ann", "", ""),), "is being looked at"),
        (
            (Entry(NOON, UPHELD, "ann", "", "You asked."),),
            "12:00 UTC: the decision stands. The reason: You asked. ",
        ),
        ((Entry(NOON, OVERTURNED, "ann", "", "No sign", "not_induced"),), "action is reversed. The reason: No sign."),
    ],
)
def test_it_says_what_has_become_of_an_appeal(entries: tuple[Entry, ...], said: str) -> None:
    contest = statement_of_reasons(decided([]), SETTINGS, case(*entries))["contest"]
    assert said in contest
    assert "ann" not in contest


def test_rules_are_named_as_such_and_a_decision_without_consequence_owes_nothing() -> None:
    by_rules = decided([], source="fallback", action="investigate")
    text = statement_of_reasons(by_rules, SETTINGS, None)["text"]
    assert "fixed automated rules" in text
    assert "opened a check" in text
    assert is_owed(by_rules)
    assert not is_owed(decided([], action="none"))
