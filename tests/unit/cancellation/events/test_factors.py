"""The factor codes and verdicts against the contract."""

import json
from importlib import resources

from cancellation.events.factors import FACTORS, VERDICTS


def test_codes_and_verdicts_are_the_contracts_in_its_order() -> None:
    path = resources.files("cancellation.events") / "schemas" / "verdict.schema.json"
    properties = json.loads(path.read_text())["properties"]
    assert list(FACTORS) == properties["decision_factors"]["items"]["properties"]["code"]["enum"]
    assert list(VERDICTS) == properties["verdict"]["enum"]
