"""What texts looked like in training: it comes back from its file, beside the features' part, which stays as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cancellation.contact_data.logged_event import redact_event
from cancellation.features.profile import PROFILE_FILE, load_profile, save_profile
from cancellation.text.profile import comparable_text, fit_text_profile, load_text_profile, save_text_profile
from tests.builders.cancellation_events import sample_event
from tests.builders.fusion_models import small_encoder
from tests.builders.monitored_days import profile, text_vectors


def test_directions_are_those_along_which_texts_of_a_market_differ() -> None:
    vectors, markets = text_vectors(900)
    found = fit_text_profile(vectors, markets)
    assert found.markets == ("BR", "ID", "TH")
    assert found.num_texts == 900
    assert np.abs(found.directions @ found.directions.T - np.eye(8)).max() < 1e-3
    assert np.argmax(np.abs(found.directions[0])) == 0, "the builder's texts differ most along the first entry"
    places = found.places(vectors, markets)
    assert places.shape == (900, 9)
    for code in found.markets:
        assert np.abs(places[np.array(markets) == code, :8].mean(0)).max() < 0.01, "a market's mean is no direction"
    assert (found.count(places, markets) == found.counts).all()
    assert found.counts.sum(0).min() > 60, "bins hold about as many"


def test_a_market_with_few_texts_is_left_out_and_few_of_all_are_no_profile() -> None:
    vectors, markets = text_vectors(300)
    assert fit_text_profile(vectors, ["VN" if place < 20 else code for place, code in enumerate(markets)]).markets == (
        "BR", "ID", "TH",
    )  # fmt: skip
    assert fit_text_profile(vectors[:40], markets[:40]) is None


def test_it_comes_back_and_the_features_part_stays_byte_for_byte(tmp_path: Path) -> None:
    save_profile(profile(), tmp_path)
    before = (tmp_path / PROFILE_FILE).read_bytes()
    assert load_text_profile(str(tmp_path / PROFILE_FILE)) is None
    vectors, markets = text_vectors(600)
    found = fit_text_profile(vectors, markets)
    for _ in range(2):
        save_text_profile(found, tmp_path)
        assert (tmp_path / PROFILE_FILE).read_bytes().startswith(before.removesuffix(b"\n}\n"))
    loaded = load_text_profile(str(tmp_path / PROFILE_FILE))
    assert loaded.to_json() == found.to_json()
    assert (loaded.count(loaded.places(vectors, markets), markets) == found.counts).all()
    assert load_profile(str(tmp_path / PROFILE_FILE)).to_json() == profile().to_json()


@pytest.mark.parametrize("broken", [{}, {"markets": ["BR"]}, "none", []])
def test_a_texts_part_that_is_none_is_refused(tmp_path: Path, broken: object) -> None:
    path = tmp_path / PROFILE_FILE
    path.write_text(json.dumps({"text": broken}))
    with pytest.raises(ValueError, match=r"profile\.json: expected a profile of texts under 'text'"):
        load_text_profile(str(path))


def test_a_text_is_compared_as_the_log_keeps_it() -> None:
    event, encoder = sample_event(), small_encoder()
    event["buyer_reason"] = "write to me at a.b@mail.example"
    as_sent = comparable_text(event, encoder)
    assert comparable_text(redact_event(event, "redacted"), encoder) == as_sent
    assert comparable_text({**event, "buyer_reason": "write to me at c.d@mail.example"}, encoder) == as_sent
    assert comparable_text(redact_event(event, "reference"), encoder) is None
    silent = {name: value for name, value in event.items() if name not in ("buyer_reason", "chat", "concurrent_orders")}
    silent["fulfilment"] = [{**entry, "note": None} for entry in silent["fulfilment"]]
    assert comparable_text(silent, encoder) is None
