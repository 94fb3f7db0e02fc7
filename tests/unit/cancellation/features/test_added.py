"""A team's own feature and decision factor, in a module of its own that the environment names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT

TEAM = '''
from cancellation.features.measures import feature


@feature("count")
def long_words(event):
    """Words of more than ten letters that the seller wrote."""
    said = [turn.text for turn in event.chat if turn.sender == "seller"]
    return float(sum(len(word) > 10 for text in said for word in text.split()))


FEATURES = (long_words,)
FACTORS = {"chat.asked_for_review": "the seller asked for a good review"}
'''

PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from cancellation.decision.policy import load_policy
from cancellation.decision.rules import judge
from cancellation.decision.verdicts import model_verdict
from cancellation.events.event import parse_event
from cancellation.events.factors import FACTORS
from cancellation.features.vector import FEATURES, feature_table, features
from cancellation.llm.answer import AnswerForm
from cancellation.llm.prompt import policy_text
from cancellation.model.exporting import export_model
from cancellation.model.verdict_model import load_verdict_model
from cancellation.training.run import calibration_batches
from tests.builders.cancellation_events import sample_event
from tests.builders.fusion_models import examples, small_model, small_set, small_tokenizer

events = [example.event for example in examples()]
assert (len(FEATURES), FEATURES[-1].name, len(FACTORS), FACTORS[-1]) == (69, "long_words", 19, "chat.asked_for_review")
table = feature_table(events)
assert all(np.array_equal(features(event), row, equal_nan=True) for event, row in zip(events, table, strict=True))
assert table[:, -1].max() > 0
folder = Path(sys.argv[1])
export_model(small_model("features"), small_tokenizer(), calibration_batches(small_set()), folder, int8=False)
model = load_verdict_model(folder)
encoded = model.encoder.encode(events[int(table[:, -1].argmax())])
other = replace(encoded, features=np.append(encoded.features[:-1], np.float32(0)))
scores = model.score([encoded, other])
assert scores.factor_probabilities.shape == (2, 19)
assert not np.array_equal(*scores.logits), "the added feature is one of the model's"
sure = np.ones(19).tolist()
verdict = model_verdict("e", "ID", [5.0, 0.0, 0.0], sure, policy=load_policy(None), model=model.identity)
assert "chat.asked_for_review" in {factor["code"] for factor in verdict["decision_factors"]}
assert "chat.asked_for_review: the seller asked for a good review" in policy_text(AnswerForm())
judge(parse_event(sample_event()))
try:
    load_verdict_model(Path("cancellation/small_model"))
except ValueError as error:
    print(error)
"""


def run(folder: Path, added: str, program: str) -> subprocess.CompletedProcess[str]:
    (folder / "team_signals.py").write_text(TEAM)
    environment = {**os.environ, "CANCELLATION_ADDED": added, "PYTHONPATH": f"{PROJECT}:{folder}"}
    command = [sys.executable, "-c", program, str(folder / "model")]
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=200)


def test_a_teams_own_feature_and_factor_go_all_the_way_without_an_edit_of_the_package(tmp_path: Path) -> None:
    done = run(tmp_path, "team_signals", PROGRAM)
    assert done.returncode == 0, done.stderr
    assert "expected 69 features, found 68" in done.stdout
    assert "CANCELLATION_ADDED set as it was then" in done.stdout


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "team_signals, team_gone", "import cancellation.features.vector")
    assert done.returncode != 0
    assert "CANCELLATION_ADDED: expected modules that can be imported, found team_gone" in done.stderr
