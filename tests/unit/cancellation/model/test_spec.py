from __future__ import annotations

import json

import pytest

from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.features.vector import feature_digest, feature_names
from cancellation.model.spec import SPEC_FILE, ModelSpec, load_spec, save_spec

SPEC = ModelSpec(name="tiny", variant="concat", encoder="modernbert", max_tokens=64, markets=("TH", "ID"))


def altered(folder, **changes):
    save_spec(SPEC, folder)
    path = folder / SPEC_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_a_description_holds_the_68_features_in_order_and_comes_back(tmp_path):
    save_spec(SPEC, tmp_path)
    loaded = load_spec(tmp_path)
    assert loaded == SPEC
    assert loaded.features == feature_names()
    assert len(loaded.features) == 68
    assert loaded.feature_digest == feature_digest()
    assert (loaded.classes, loaded.factors) == (VERDICTS, FACTORS)


def test_67_features_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected 68 features, found 67; use the code it was trained with"):
        load_spec(altered(tmp_path, features=feature_names()[:-1]))


def test_another_order_of_features_is_refused(tmp_path):
    first, second, *rest = feature_names()
    with pytest.raises(ValueError, match=f"expected feature 0 to be {first}, found {second}"):
        load_spec(altered(tmp_path, features=[second, first, *rest]))


def test_another_unit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a unit changed"):
        load_spec(altered(tmp_path, feature_digest="0" * 16))


def test_other_classes_and_factors_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected classes induced, not_induced, inconclusive, found guilty"):
        load_spec(altered(tmp_path, classes=["guilty"]))
    with pytest.raises(ValueError, match="expected factors"):
        load_spec(altered(tmp_path, factors=FACTORS[1:]))


def test_a_missing_or_broken_description_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected model\.json, found none"):
        load_spec(tmp_path)
    with pytest.raises(ValueError, match="found bad values at max_tokens"):
        load_spec(altered(tmp_path, max_tokens="many"))


def test_an_unknown_market_takes_the_default_row():
    assert [SPEC.market_index(market) for market in ("TH", "ID", "ZZ")] == [1, 2, 0]
