"""What training's texts look like to the model that was trained: the texts' part of its `profile.json`."""

from __future__ import annotations

import logging
from pathlib import Path

from cancellation.events.event import event_mapping
from cancellation.model.verdict_model import load_verdict_model
from cancellation.text.profile import comparable_text, fit_text_profile, save_text_profile
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
    events = [example.event for example in sample_examples(settings, at_most)]
    texts = [(event.market, comparable_text(event_mapping(event), model.encoder)) for event in events]
    written = [(market, text) for market, text in texts if text is not None]
    profile = fit_text_profile(model.embed([text for _, text in written]), [market for market, _ in written])
    if profile is None:
        logger.warning("%d training texts, too few of every market for a profile of them", len(written))
        return
    save_text_profile(profile, folder)
