"""Epochs of examples drawn ahead by processes of their own: a GPU takes pairs faster than one core makes them."""

from __future__ import annotations

from typing import Any

from cluster.models.files import ModelFiles, fetch_model
from relevance.engines.label_model import load_tokenizer
from relevance.prompting.prompts import PromptEncoder, PromptSettings
from relevance.training.examples import ExampleSource, ProductExample


class DrawnAhead:
    """The same epochs as the source's own, in the same order."""

    def __init__(
        self, source: ExampleSource, model: ModelFiles, cache_dir: str, prompt: PromptSettings, *, num_processes: int
    ) -> None:
        """Start the processes; they end with the one that started them."""
        import ray

        # No core is asked for: a Ray whose cores training holds would never start them.
        drawer = ray.remote(num_cpus=0)(_Drawer)
        self._drawers = [drawer.remote(source, model, cache_dir, prompt) for _ in range(num_processes)]
        self._epochs: dict[int, Any] = {}

    def epoch(self, number: int) -> list[ProductExample]:
        """Return an epoch; the next ones are drawn meanwhile."""
        import ray

        for later in range(number, number + 2 * len(self._drawers)):
            if later not in self._epochs:
                self._epochs[later] = self._drawers[later % len(self._drawers)].epoch.remote(later)
        return ray.get(self._epochs.pop(number))


class _Drawer:
    def __init__(self, source: ExampleSource, model: ModelFiles, cache_dir: str, prompt: PromptSettings) -> None:
        folder = fetch_model(model, cache_dir=cache_dir, weights=False)
        self._source, self._encoder = source, PromptEncoder(load_tokenizer(folder), prompt)

    def epoch(self, number: int) -> list[ProductExample]:
        return self._source.epoch(self._encoder, number)
