"""What a new market must bring, and what it must not do to the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cancellation.decision.policy import load_policy
from cancellation.events.examples import Example
from cancellation.events.markets import MARKETS
from cancellation.new_market import (
    NewMarket,
    NewMarketSettings,
    check_labels,
    check_old_markets,
    is_worse,
    paired_change,
    split_sellers,
    write_examples,
)
from cancellation.simulation.simulator import SimulationSettings
from cancellation.training.labelled_source import simulated_examples
from cluster.storage import list_files
from tests.builders.verdict_models import WordModel

SETTINGS = NewMarketSettings(min_labels=100)
EXAMPLES = list(simulated_examples(SimulationSettings(num_events=300, markets=("MX",)), 2, range(300)))


def test_labels_are_counted_or_what_is_missing_is_said() -> None:
    step = check_labels(EXAMPLES, "MX", "mx.jsonl", SETTINGS)
    assert step.done
    assert sum(int(part.split()[0]) for part in step.found.split(", ")) == 300
    with pytest.raises(ValueError, match=r"at least 5,000 .* of MX .*found 300: 4,700 more to label"):
        check_labels(EXAMPLES, "MX", "mx.jsonl", NewMarketSettings())
    with pytest.raises(ValueError, match=r"events of BR only are expected, found MX too"):
        check_labels(EXAMPLES, "BR", "mx.jsonl", SETTINGS)
    same = [replace(example, label="induced") for example in EXAMPLES]
    with pytest.raises(ValueError, match="no event is labelled not_induced"):
        check_labels(same, "MX", "mx.jsonl", SETTINGS)


def test_a_sure_loss_is_one_however_small_and_a_large_one_however_unsure() -> None:
    before = np.ones(20_000, bool)
    after = before.copy()
    after[:100] = False
    assert is_worse(paired_change(before, after, np.arange(len(before))), 0.02)
    rng = np.random.default_rng(0)
    noisy = [rng.random(60) < share for share in (0.8, 0.75)]
    change = paired_change(*noisy, np.arange(60))
    assert change.high > 0
    assert is_worse(replace(change, value=-0.05), 0.02)
    assert not is_worse(replace(change, value=-0.01), 0.02)
    assert not is_worse(paired_change(before, before, np.arange(len(before))), 0.0)


def test_old_markets_are_compared_one_by_one() -> None:
    examples = EXAMPLES[:60] + list(
        simulated_examples(SimulationSettings(num_events=60, markets=("ID",)), 2, range(60))
    )
    same = check_old_markets(WordModel(), WordModel(), examples, 0.02, policy=load_policy())
    assert same.done
    assert same.found.startswith(
        "ID +0.0 [+0.0, +0.0], MX +0.0 [+0.0, +0.0]; not looked at, as no event of them was kept out: "
    )
    assert set(same.found.rpartition(": ")[2].split(", ")) == set(MARKETS) - {"ID", "MX"}
    accuser = WordModel(weights={}, bias=10.0)
    spoilt = check_old_markets(WordModel(weights={}), accuser, examples, 0.02, policy=load_policy())
    assert spoilt.line().startswith("- [ ] old markets no worse")
    assert "ID -" in spoilt.found


def test_what_is_kept_out_is_of_sellers_of_whom_nothing_is_taught() -> None:
    shops = [replace(one, event=replace(one.event, seller_id=f"shop{n % 40}")) for n, one in enumerate(EXAMPLES)]
    taught, kept = split_sellers(shops, 0.25, np.zeros(len(shops), bool), source="shops.jsonl")
    assert len(taught) + len(kept) == 300
    assert 0 < len(kept) < 150

    def sellers(examples: list[Example]) -> set[str]:
        return {one.event.seller_id for one in examples}

    assert not sellers(taught) & sellers(kept)
    learnt = np.array([one in kept[:5] for one in shops])
    taught, kept = split_sellers(shops, 0.25, learnt, source="shops.jsonl")
    assert not any(one in kept for one, known in zip(shops, learnt, strict=True) if known), "it may prove nothing"
    assert len(taught) + len(kept) == 300
    with pytest.raises(
        ValueError, match=r"shops\.jsonl: events of sellers to teach and of others to keep out are expected"
    ):
        split_sellers(shops[:1], 0.25, np.zeros(1, bool), source="shops.jsonl")


def test_a_loss_on_one_sellers_events_is_no_sure_one() -> None:
    before, after = np.ones(400, bool), np.arange(400) >= 30
    assert paired_change(before, after, np.arange(400)).high < 0
    one_shop = np.where(np.arange(400) < 30, 0, np.arange(400))
    assert paired_change(before, after, one_shop).high == 0


def test_a_loss_counts_by_what_events_stand_for() -> None:
    heavy = [replace(one, sampling_weight=9.0 if one.label == "induced" else 0.1) for one in EXAMPLES]
    accuser, nobody = WordModel(weights={}, bias=10.0), WordModel(weights={})
    plain, weighed = (
        check_old_markets(nobody, accuser, some, 0.02, policy=load_policy()) for some in (EXAMPLES, heavy)
    )
    assert not plain.done
    assert weighed.done


def test_a_run_that_was_killed_finds_the_events_that_it_began_to_teach(tmp_path: Path) -> None:
    path = tmp_path / "events" / "new.jsonl"
    write_examples(path, EXAMPLES[:5])
    begun = list_files(str(path))
    write_examples(path, EXAMPLES[:5])
    assert list_files(str(path)) == begun  # a checkpoint goes by this
    write_examples(path, EXAMPLES[:6])
    assert list_files(str(path)) != begun


def test_a_market_that_the_policy_has_keeps_its_classes_and_is_live_no_more(tmp_path: Path) -> None:
    shipped = load_policy()
    live = next(code for code, entry in shipped.markets.items() if entry.state == "live")
    known = shipped.known_market(live)

    def market(**changes: object) -> NewMarket:
        given = {"code": live, "language": known.language, "policy": shipped, "settings": NewMarketSettings()}
        rest = {name: None for name in NewMarket.__dataclass_fields__ if name not in given}
        return NewMarket(**rest | given | changes)

    assert market().entry == replace(known, state="shadow")
    other = 5 - known.classes
    with pytest.raises(ValueError, match=rf"check\.classes: expected {known.classes}, .* for {live}, found {other}"):
        market(settings=NewMarketSettings(classes=other))
    assert market(settings=NewMarketSettings(classes=known.classes)).entry.classes == known.classes
    new = market(code="CO", language="es")
    assert (new.entry.state, new.entry.classes) == ("shadow", 3)
    assert market(code="CO", language="es", settings=NewMarketSettings(classes=2)).entry.classes == 2
    switched_off = replace(shipped, markets={live: replace(known, state="off")})
    assert market(policy=switched_off).entry.state == "off"
