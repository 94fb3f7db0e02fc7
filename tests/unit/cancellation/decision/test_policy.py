"""The policy file: what it says, what it may not say, and that no penalty comes from anything but proof."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cancellation.decision.policy import (
    Evidence,
    MarketPolicy,
    PolicyError,
    load_policy,
    named_by_content,
    parse_policy,
)
from cancellation.decision.policy_file import render_policy
from cancellation.events.markets import MARKETS

GOOD = """
version = "1"
[default]
state = "off"
classes = 3
language = "en"
[markets.TH]
state = "live"
classes = 2
language = "th"
investigate = 0.5
penalty = 0.9
[markets.TH.evidence]
cases = 400
correct = 390
lower_bound = 0.957
model_version = "m@1"
date = 2026-11-22
"""


def test_the_shipped_policy_loads_and_covers_the_simulated_markets() -> None:
    policy = load_policy()
    assert set(policy.markets) == set(MARKETS)
    assert policy.default.penalty is None


def test_values_are_read_and_left_out_ones_have_the_stated_defaults() -> None:
    policy = parse_policy(GOOD)
    thailand = policy.market("TH")
    assert (thailand.state, thailand.classes, thailand.investigate, thailand.penalty) == ("live", 2, 0.5, 0.9)
    assert thailand.evidence == Evidence(400, 390, 0.957, "m@1", "2026-11-22")
    assert (policy.default.investigate, policy.min_precision) == (0.45, 0.90)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("penalty = 0.9", "penalty = 0.4", r"\[markets\.TH\] penalty: expected at least investigate = 0\.5"),
        ("penalty = 0.9", "penalty = 0.9\ninduced = 0.95", r"penalty: expected at least induced = 0\.95, found 0\.9"),
        ("penalty = 0.9", "penalty = nan", r"\[markets\.TH\] penalty: expected a number from 0 to 1, found nan"),
        ("investigate = 0.5", "investigate = nan", r"investigate: expected a number from 0 to 1, found nan"),
        ("penalty = 0.9", "penalty = 1.1", r"penalty: expected a number from 0 to 1, found 1\.1"),
        ("penalty = 0.9", "penalty = true", r"penalty: expected a number from 0 to 1, found True"),
        ("investigate = 0.5", "investigate = -0.1", r"investigate: expected a number from 0 to 1"),
        ("penalty = 0.9", "penalties = 0.9", r"\[markets\.TH\] penalties: no such key"),
        ('version = "1"', 'version = "1"\nowner = "me"', r"p\.toml owner: no such key"),
        ('version = "1"', "", r"version: expected a text, found nothing"),
        ("[default]", "[markets.XX]", r"default: expected a table, found nothing"),
        ("[markets.TH]", "[markets.th]", r"two capital letters such as TH, found 'th'"),
        ("classes = 2", "classes = 4", r"classes: expected 2 or 3, found 4"),
        ("classes = 2", "classes = true", r"classes: expected 2 or 3, found True"),
        ('state = "live"', 'state = "on"', r"state: expected off or shadow or live, found 'on'"),
        ("correct = 390", "correct = 401", r"\[markets\.TH\.evidence\] correct: expected at most cases = 400"),
        ("lower_bound = 0.957", "lower_bound = 0.89", r"lower bound of precision of at least 0\.9, found 0\.89"),
        ('[default]\nstate = "off"', '[default]\npenalty = 0.9\nstate = "off"', r"expected evidence beside it"),
        (
            'version = "1"',
            'version = "1+hotfix"',
            r"p\.toml version: expected a label without \+, .* found '1\+hotfix'",
        ),
        ('version = "1"', 'version = "1+kill:TH"', r"p\.toml version: expected a label without \+"),
        ('version = "1"', 'version = "1"\ndemo = "yes"', r"p\.toml demo: expected true or false, found 'yes'"),
        (
            "date = 2026-11-22",
            'date = 2026-11-22\nsource = "guess"',
            r"source: expected simulation or written or backfill",
        ),
        ('version = "1"', "version = ", r"p\.toml: not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(old: str, new: str, place: str) -> None:
    assert old in GOOD
    with pytest.raises(PolicyError, match=place):
        parse_policy(GOOD.replace(old, new, 1), "p.toml")


def test_a_penalty_without_evidence_is_refused() -> None:
    with pytest.raises(PolicyError, match="expected evidence beside it, found none"):
        parse_policy(GOOD.partition("[markets.TH.evidence]")[0])


def test_a_policy_that_no_file_may_hold_cannot_be_made_in_code_either() -> None:
    with pytest.raises(ValueError, match="expected evidence beside it"):
        MarketPolicy("live", 3, "en", 0.45, 0.95)
    with pytest.raises(ValueError, match=r"\[default\] penalty: expected none"):
        replace(parse_policy(GOOD), default=parse_policy(GOOD).markets["TH"])
    with pytest.raises(ValueError, match=r"lower bound of precision of at least 0\.98"):
        replace(parse_policy(GOOD), min_precision=0.98)


def test_a_default_penalty_is_refused_even_with_evidence() -> None:
    evidence = GOOD[GOOD.index("[markets.TH.evidence]") :].replace("markets.TH", "default")
    text = GOOD.replace('[default]\nstate = "off"', '[default]\npenalty = 0.9\nstate = "off"') + evidence
    with pytest.raises(PolicyError, match=r"\[default\] penalty: expected none"):
        parse_policy(text)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"gone\.toml: cannot be read"):
        load_policy(tmp_path / "gone.toml")


def test_an_unknown_market_gets_the_default_or_a_refusal_where_it_must_be_known() -> None:
    policy = parse_policy(GOOD)
    assert policy.market("ZZ") is policy.default
    with pytest.raises(PolicyError, match=r"market 'ZZ': expected one with an entry in policy 1-[0-9a-f]{8} \(TH\)"):
        policy.known_market("ZZ")


def test_a_model_is_not_live_where_it_was_never_trained() -> None:
    policy = parse_policy(GOOD)
    policy.check_live_markets(("TH", "ID"))
    parse_policy(GOOD.replace('"live"', '"shadow"')).check_live_markets(("ID",))
    with pytest.raises(PolicyError, match=r"\[markets\.TH\] state: .* never trained on \(it knows BR, ID\)"):
        policy.check_live_markets(("ID", "BR"))


def test_a_policy_is_written_and_read_back_equal_under_a_version_of_its_content() -> None:
    policy = named_by_content(parse_policy(GOOD), "2026-11-23")
    assert parse_policy(render_policy(policy)) == policy
    stricter = replace(policy, markets={"TH": replace(policy.market("TH"), penalty=0.97)})
    assert named_by_content(stricter, "2026-11-23").version != policy.version
    assert named_by_content(policy, "2026-11-23") == policy


def test_a_demo_and_what_evidence_rests_on_are_written_and_read_back() -> None:
    said = (
        'date = 2026-11-22\nsource = "backfill"\nperiod = "2026-08-01/2026-09-30"\nsellers = 210\nsampling = "random"'
    )
    policy = parse_policy(
        GOOD.replace("date = 2026-11-22", said).replace('version = "1"', 'version = "1"\ndemo = true')
    )
    assert parse_policy(render_policy(policy)) == policy
    evidence = policy.market("TH").evidence
    assert evidence is not None
    assert (evidence.source, evidence.period, evidence.sellers) == ("backfill", "2026-08-01/2026-09-30", 210)
    assert (policy.stamp, replace(policy, demo=False).stamp) == (f"{policy.version}+demo", policy.version)
    assert replace(policy, version="1+kill:TH").stamp == "1+demo+kill:TH"
    assert named_by_content(policy, "d").version != named_by_content(replace(policy, demo=False), "d").version
