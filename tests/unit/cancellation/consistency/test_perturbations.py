"""Neutral perturbations: the same case in other clothes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from cancellation.consistency.perturbations import KINDS, perturb
from cancellation.events.event import parse_event
from cancellation.features.vector import features
from cancellation.text.timeline import timeline
from tests.builders.cancellation_events import sample_event


def test_fifty_of_them_are_of_every_kind_and_change_no_line() -> None:
    source = sample_event()
    source["chat"][0]["text"] = "ขอยกเลิก  ได้ไหม café Ａ"
    event = parse_event(source)
    others = [replace(event, event_id=f"e-{n}") for n in range(20)]
    found = list(perturb(event, others, 50, seed=1))
    assert set(Counter(one.kind for one in found)) == set(KINDS)
    for one in found:
        judged = one.batch[one.place]
        assert timeline(judged).text() == timeline(event).text(), one.kind
        np.testing.assert_allclose(features(judged)[:18], features(event)[:18], rtol=1e-9, err_msg=one.kind)


def test_what_is_changed_is_changed() -> None:
    event = parse_event(sample_event())
    found = list(perturb(event, [replace(event, event_id="e-9")], 50, seed=1))
    by_kind = {kind: [one for one in found if one.kind == kind] for kind in KINDS}
    assert all(one.batch[0].order_id != event.order_id for one in by_kind["ids"])
    assert any(one.batch[0].chat != event.chat for one in by_kind["white space"])
    assert {len(one.batch) for one in by_kind["batch"] + by_kind["padding"]} > {2}
    assert any(one.place > 0 for one in by_kind["batch"])


def test_the_same_seed_makes_the_same() -> None:
    event = parse_event(sample_event())
    assert list(perturb(event, [event], 16, seed=3)) == list(perturb(event, [event], 16, seed=3))
