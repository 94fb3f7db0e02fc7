"""What is learned from, and what stops the learning: neither knows the writers and languages that are kept apart."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from cancellation.model.spec import ModelSpec
from cancellation.simulation.simulator import SimulationSettings
from cancellation.training.events import TrainingEventsSettings, encode_unit, encoding_units, sample_examples
from cancellation.written.dialogue import Dialogue, written_dialogues
from tests.conftest import PROJECT

SMALL_MODEL = PROJECT / "cancellation" / "small_model"
SETTINGS = TrainingEventsSettings(
    simulation=SimulationSettings(num_events=200, markets=("BR", "MX")),
    stagings=1,
    held_out_writers=("w18",),  # Thai, Tagalog, Vietnamese
    unseen_writers=("w23",),
    left_out_languages=("th",),
)


def texts_of(dialogues: list[Dialogue]) -> set[str]:
    """Their long messages: short ones many writers have written."""
    return {turn.text for one in dialogues for turn in one.turns if len(turn.text) > 40}


def test_nothing_is_learned_from_writers_and_languages_that_are_kept_apart() -> None:
    taught = {message.text for one in sample_examples(SETTINGS, 1_000_000) for message in one.event.chat}
    assert not taught & texts_of(written_dialogues(only=("w18", "w23")))
    assert not any("\u0e01" <= letter <= "\u0e5b" for text in taught for letter in text)
    others = [one for one in written_dialogues(without=("w18", "w23")) if one.language != "th"]
    assert texts_of(others) <= taught


def test_what_stops_the_learning_is_in_a_language_that_is_taught(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(SMALL_MODEL / "tokenizer.json"))
    spec = ModelSpec.model_validate_json((SMALL_MODEL / "model.json").read_text("utf-8"))
    units = encoding_units(SETTINGS, tokenizer, spec, str(tmp_path))
    (validation,) = [unit for unit in units if "/validation-" in unit[-1]]
    encode_unit(*validation)
    with pa.ipc.open_file(validation[-1]) as rows:
        stopped_by = rows.read_all()["market"].to_pylist()
    apart = [one.market for one in written_dialogues(only=("w18",)) if one.language != "th"]
    assert 0 < len(apart) < len(written_dialogues(only=("w18",)))
    assert sorted(stopped_by) == sorted(3 * apart)
    assert "TH" not in stopped_by


def test_a_language_that_no_market_speaks_is_named() -> None:
    settings = SETTINGS.model_copy(update={"left_out_languages": ("thai",)})
    with pytest.raises(ValueError, match=r"left_out_languages: .* found thai"):
        sample_examples(settings, 10)
