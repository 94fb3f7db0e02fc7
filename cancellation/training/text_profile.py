"""What training's texts look like to the model that was trained: the texts' part of its `profile.json`."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from cancellation.events.event import Event, event_mapping
from cancellation.features.profile import PROFILE_FILE, fit_profile, save_profile
from cancellation.features.vector import feature_table
from cancellation.model.verdict_model import VerdictModel, load_verdict_model
from cancellation.text.profile import MIN_TEXTS, TextProfile, comparable_text, fit_text_profile, save_text_profile
from cancellation.training.events import TrainingEventsSettings, sample_examples

logger = logging.getLogger(__name__)

_TEXTS = 10_000
"""Events that are read: some ten seconds, and a thousand for each of nine markets."""


def profile_texts(settings: TrainingEventsSettings, folder: Path, *, at_most: int = _TEXTS) -> None:
    """Add to an exported model's `profile.json` what the texts of its training events look like.

    Nothing is added for a model that reads no text, or with too few texts of every market.

    Raises:
        ValueError: If events or the model are refused.
    """
    model = load_verdict_model(folder)
    if not model.embeds:
        return
    profile, number = _fitted(model, [example.event for example in sample_examples(settings, at_most)])
    if profile is None:
        logger.warning("%d training texts, too few of every market for a profile of them", number)
        return
    save_text_profile(profile, folder)


def profile_model(settings: TrainingEventsSettings, model: Path, output: Path, *, at_most: int = _TEXTS) -> TextProfile:
    """Copy a model that was trained earlier, with a profile of its training events' texts; give that.

    A profile of features that it has stays; where it has none, that is made too. `output` may be the model's folder.

    Raises:
        ValueError: If events or the model are refused, it gives no vectors of texts, or the texts are too few.
    """
    loaded = load_verdict_model(model)
    if not loaded.embeds:
        raise ValueError(
            f"{model}: a model that gives vectors of texts is expected, found one that reads none or was exported "
            "before exports gave them: train it anew"
        )
    events = [example.event for example in sample_examples(settings, at_most)]
    profile, number = _fitted(loaded, events)
    if profile is None:
        raise ValueError(
            f"training.events: {MIN_TEXTS} texts of a market are expected at least, found {number:,} of all markets "
            "together; give the events that the model was trained on"
        )
    if output.resolve() != model.resolve():
        shutil.copytree(model, output, dirs_exist_ok=True)
    if not (output / PROFILE_FILE).exists():
        save_profile(fit_profile(feature_table(events)), output)
    save_text_profile(profile, output)
    return profile


def _fitted(model: VerdictModel, events: Sequence[Event]) -> tuple[TextProfile | None, int]:
    """Give the profile of events' texts, and how many have one."""
    texts = [(event.market, comparable_text(event_mapping(event), model.encoder)) for event in events]
    written = [(market, text) for market, text in texts if text is not None]
    vectors = model.embed([text for _, text in written])
    return fit_text_profile(vectors, [market for market, _ in written]), len(written)
