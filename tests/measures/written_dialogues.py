"""Judge models on written dialogues, each staged once: figures with intervals, by language, and what goes wrong most.

    python -m tests.measures.written_dialogues w23,w24 [language=th] [MODEL …]

MODEL is an exported model or a `trained` folder; without one, the model that ships. Writers w23 and w24 taught
and chose nothing. `all` instead of writers is for a language that a model was not taught.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from cancellation.comparison.figures import INDUCED, Judgements, Truth, compare
from cancellation.events.factors import VERDICTS
from cancellation.events.labelled import LabelledEvent
from cancellation.model.fusion import load_fusion_model
from cancellation.model.torch_network import TorchNetwork
from cancellation.model.verdict_model import ONNX_FILE, VerdictModel, load_verdict_model
from cancellation.text.encoding import EventEncoder
from cancellation.written.dialogue import written_dialogues
from cancellation.written.staging import stage

_SEED = 99
_SHIPPED = Path("cancellation/small_model")
_SHOWN = ("accuracy", "precision", "recall", "f1", "auc", "recall_at_precision_95", "factor_f1")


def load(folder: Path) -> VerdictModel:
    """Load an exported model, or a trained one as the training loop leaves it."""
    if (folder / ONNX_FILE).is_file():
        return load_verdict_model(folder)
    model, tokenizer = load_fusion_model(folder)
    encoder = EventEncoder(tokenizer, max_tokens=model.spec.max_tokens, left_out=model.spec.left_out)
    network = TorchNetwork(model, torch.device("cpu"))
    return VerdictModel(network, model.spec, encoder, version=str(folder), temperature=1.0, max_batch_tokens=4096)


def judge(model: VerdictModel, rows: list[LabelledEvent]) -> Judgements:
    """Ask the model about each event; probabilities are calibrated where the model is."""
    scores = model.score([model.encoder.encode(row.event) for row in rows])
    logits = scores.logits / model.temperature
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Judgements(exps / exps.sum(axis=1, keepdims=True), scores.factor_probabilities)


def main(writers: str, folders: list[Path], *, language: str | None = None) -> None:
    chosen = written_dialogues() if writers == "all" else written_dialogues(only=writers.split(","))
    rows = [stage(dialogue, 0, seed=_SEED) for dialogue in chosen if language in (None, dialogue.language)]
    languages = tuple(row.language for row in rows)
    truth = Truth.of([row.label for row in rows], [row.factors for row in rows], languages)
    for folder in folders:
        found = judge(load(folder), rows)
        figures = compare(found, truth, resamples=1000)
        verdicts = found.probabilities.argmax(axis=1)
        print(f"\n{folder}: {len(rows)} dialogues of {writers}")
        for name in _SHOWN:
            one = figures[name]
            print(f"  {name:24} {one.value:.3f} ({one.low:.3f} to {one.high:.3f})")
        for least in (0.9, 0.95):
            flagged = found.probabilities[:, INDUCED] >= least
            print(f"  score >= {least}: {flagged.sum()}, {(truth.labels[flagged] != INDUCED).sum()} wrong")
        by_language = {name: round(figures[f"accuracy.{name}"].value, 2) for name in sorted(set(languages))}
        print("  accuracy by language:", by_language)
        told = [VERDICTS[verdict] for verdict in verdicts]
        wrong = Counter(row.cause for row, verdict in zip(rows, told, strict=True) if verdict != row.label)
        print("  wrong:", dict(wrong.most_common(8)))


if __name__ == "__main__":
    settings = [argument for argument in sys.argv[2:] if argument.startswith("language=")]
    named = [Path(argument) for argument in sys.argv[2:] if argument not in settings]
    main(sys.argv[1], named or [_SHIPPED], language=settings[0].partition("=")[2] if settings else None)
