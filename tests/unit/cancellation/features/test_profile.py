"""The profile of the features in training: what is counted is what was there, and it comes back from its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cancellation.features.profile import PROFILE_FILE, fit_profile, load_profile, save_profile
from tests.conftest import PROJECT


def _features(num_events: int = 500) -> np.ndarray:
    features = np.random.default_rng(0).normal(size=(num_events, 68))
    features[:, 3] = np.round(features[:, 3])
    features[::4, 5] = np.nan
    features[:, 7] = np.nan
    features[:, 8] = 2.0
    return features


def test_every_event_is_in_one_bin_of_each_feature() -> None:
    profile = fit_profile(_features())
    assert (profile.counts.sum(axis=1) == 500).all()
    assert profile.num_events == 500
    assert profile.counts[5, 0] == 125
    assert profile.counts[7].tolist() == [500, *[0] * 21]
    assert sorted(profile.counts[8])[-1] == 500
    assert profile.counts[0, 1:].max() <= 30, "bins of a continuous feature hold about as many"
    assert (profile.count(_features()[:100]) + profile.count(_features()[100:]) == profile.counts).all()


def test_a_profile_comes_back_from_its_file(tmp_path: Path) -> None:
    profile = fit_profile(_features())
    save_profile(profile, tmp_path)
    loaded = load_profile(str(tmp_path / PROFILE_FILE))
    assert (loaded.counts == profile.counts).all()
    assert (loaded.count(_features()) == profile.counts).all()


def test_a_file_that_is_no_profile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / PROFILE_FILE
    with pytest.raises(FileNotFoundError):
        load_profile(str(path))
    save_profile(fit_profile(_features()), tmp_path)
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "feature_digest": "0" * 16}))
    with pytest.raises(ValueError, match=r"expected feature digest .* cannot run"):
        load_profile(str(path))
    path.write_text(path.read_text()[:200])
    with pytest.raises(ValueError, match="expected a profile of 68 features"):
        load_profile(str(path))
    with pytest.raises(ValueError, match=r"expected \(events, 68\)"):
        fit_profile(np.zeros((3, 67)))


def test_the_model_that_ships_has_one() -> None:
    assert load_profile(str(PROJECT / "cancellation" / "small_model" / PROFILE_FILE)).num_events > 10_000
