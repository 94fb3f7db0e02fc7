import json
from dataclasses import replace

import pytest

from relevance.scoring.checks import Check, CheckSettings, check_day, verdict
from relevance.scoring.measures import PreviousDay
from tests.builders.scoring_days import FINGERPRINT, scored_day, shard_figures


def checks_of(previous: PreviousDay | None = None, **shard: object) -> dict[str, Check]:
    figures, _ = scored_day(shard_figures(**shard))
    return {check.name: check for check in check_day(figures.as_dict(), previous, FINGERPRINT, CheckSettings())}


def previous_day(**shard: object) -> PreviousDay:
    figures, _ = scored_day(shard_figures(**shard))
    return PreviousDay("ds=2026-11-21", "model/6:fp8", FINGERPRINT, figures.as_dict())


def failed(checks: dict[str, Check]) -> list[str]:
    return [name for name, check in checks.items() if check.passed is False]


def test_an_ordinary_day_is_fine() -> None:
    checks = checks_of(previous_day(rows=900_000))
    assert failed(checks) == []
    assert verdict(list(checks.values())) == (True, "This day looks fine: 6 of 6 checks passed.")


def test_a_first_day_is_judged_by_what_there_is() -> None:
    checks = checks_of()
    assert [name for name, check in checks.items() if check.passed is None] == ["Label drift", "Rows read"]
    assert verdict(list(checks.values())) == (True, "This day looks fine: 4 of 4 checks passed.")


def test_prompts_that_had_to_be_computed_whole_are_a_finding() -> None:
    checks = checks_of(unshared=4_000)
    assert failed(checks) == ["Shared prefixes"]
    assert checks["Shared prefixes"].found == "4,000 pairs had their whole prompt computed"
    assert "scoring.engine=vllm" in checks["Shared prefixes"].remedy


def test_ids_that_name_two_pairs_are_a_finding() -> None:
    checks = checks_of(conflicting=3)
    assert failed(checks) == ["Ids of one pair"]
    assert checks["Ids of one pair"].found == "3 pairs have the ids of another pair"
    assert "with the market in front" in checks["Ids of one pair"].remedy


@pytest.mark.parametrize(
    ("shard", "name", "found"),
    [
        ({"errors": {"query: blank": 5_001}}, "Unusable rows", "0.50%"),
        ({"errors": {"engine: died": 2_000}, "poisoned": 2_000}, "Shards given up", "2,000 rows"),
        ({"label_mass": 0.89}, "Label mass", "0.890"),
        ({"shares": (1.0, 0.0, 0.0, 0.0)}, "Most frequent label", "every row is exact"),
    ],
)
def test_each_rule_finds_its_fault_and_says_where_to_look(shard: dict, name: str, found: str) -> None:
    checks = checks_of(**shard)
    assert failed(checks) == [name]
    assert checks[name].found == found
    assert len(checks[name].remedy) > 40
    fine, sentence = verdict(list(checks.values()))
    assert not fine
    assert sentence == f"Look at this day before you use it: 1 of 4 checks failed ({name.lower()})."


def test_rows_of_a_shard_that_was_given_up_are_not_counted_twice() -> None:
    checks = checks_of(errors={"engine: died": 900_000}, poisoned=900_000)
    assert checks["Unusable rows"].passed


def test_a_day_without_any_label_is_not_fine() -> None:
    checks = checks_of(rows=1_000, repeated=0, errors={"query: blank": 1_000})
    assert failed(checks) == ["Unusable rows", "Label mass", "Most frequent label"]
    assert checks["Most frequent label"].found == "no row has a label"


@pytest.mark.parametrize("mean", [None, float("nan")])
def test_a_label_mass_that_cannot_be_computed_fails_and_one_not_asked_for_is_not_judged(mean: float | None) -> None:
    day = {**scored_day()[0].as_dict(), "mean_label_mass": mean}

    def mass(**asked: bool) -> Check:
        checks = check_day(day, None, FINGERPRINT, CheckSettings(), **asked)
        return next(check for check in checks if check.name == "Label mass")

    assert (mass().passed, mass().found) == (False, "cannot be computed")
    assert mass(label_mass=False).passed is None


def test_rows_without_finite_probabilities_are_the_first_thing_said() -> None:
    checks = checks_of(not_finite=12)
    assert failed(checks) == ["Finite probabilities"]
    fine, sentence = verdict(list(checks.values()))
    assert not fine
    assert sentence.startswith("12 rows have no label because their probabilities are not finite. Look at this day")


def test_a_run_without_label_mass_is_valid_json() -> None:
    day = scored_day(shard_figures(label_mass=None))[0].as_dict()
    assert json.loads(json.dumps(day, allow_nan=False))["mean_label_mass"] is None


def test_drift_tells_a_new_model_from_new_pairs() -> None:
    before = previous_day(shares=(0.38, 0.391, 0.068, 0.161))
    same_model = checks_of(before)["Label drift"]
    assert same_model.passed is False
    assert same_model.found == "0.102 against ds=2026-11-21"
    assert "the pairs changed" in same_model.remedy
    other_model = checks_of(replace(before, fingerprint="other"))["Label drift"]
    assert other_model.found == "0.102 against ds=2026-11-21, by another model or prompt"
    assert "model/6:fp8 before" in other_model.remedy


def test_drift_that_chance_explains_is_no_alarm() -> None:
    few, many = {"rows": 60, "repeated": 0.0}, {"rows": 60_000}
    assert checks_of(previous_day(**few, shares=(0.38, 0.391, 0.068, 0.161)), **few)["Label drift"].passed
    assert not checks_of(previous_day(**many, shares=(0.38, 0.391, 0.068, 0.161)), **many)["Label drift"].passed


@pytest.mark.parametrize(("rows", "passed"), [(600_000, True), (400_000, False), (1_400_000, True), (1_600_000, False)])
def test_half_a_day_or_a_doubled_one_is_noticed(rows: int, passed: bool) -> None:
    assert checks_of(previous_day(), rows=rows)["Rows read"].passed is passed
