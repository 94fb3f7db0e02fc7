"""Judge models on written dialogues, each staged once: figures with intervals, by language, and what goes wrong most.

    python -m tests.measures.written_dialogues w23,w24 [language=th] [MODEL …]

MODEL is an exported model or a `trained` folder; without one, the model that ships. Writers w23 and w24 taught
and chose nothing. `all` instead of writers is for a language that a model was not taught.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch

from cancellation.comparison.approaches import NetworkJudge
from cancellation.comparison.figures import INDUCED, Truth, compare
from cancellation.decision.policy import Policy, load_policy
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


def _known(row: LabelledEvent, policy: Policy) -> str:
    """What counts as right: a market of two classes calls an inconclusive case not induced."""
    return row.label if policy.market(row.event.market).classes > VERDICTS.index(row.label) else "not_induced"


def main(writers: str, folders: list[Path], *, language: str | None = None) -> None:
    chosen = written_dialogues() if writers == "all" else written_dialogues(only=writers.split(","))
    rows = [stage(dialogue, 0, seed=_SEED) for dialogue in chosen if language in (None, dialogue.language)]
    languages = tuple(row.language for row in rows)
    policy = load_policy()
    labels = [_known(row, policy) for row in rows]
    truth = Truth.of(labels, [row.factors for row in rows], languages)
    for folder in folders:
        found = NetworkJudge(load(folder), policy).judge([row.event for row in rows])
        figures = compare(found, truth, resamples=1000)
        print(f"\n{folder}: {len(rows)} dialogues of {writers}")
        for name in _SHOWN:
            one = figures[name]
            print(f"  {name:24} {one.value:.3f} ({one.low:.3f} to {one.high:.3f})")
        for least in (0.9, 0.95):
            flagged = found.probabilities[:, INDUCED] >= least
            print(f"  score >= {least}: {flagged.sum()}, {(truth.labels[flagged] != INDUCED).sum()} wrong")
        by_language = {name: round(figures[f"accuracy.{name}"].value, 2) for name in sorted(set(languages))}
        print("  accuracy by language:", by_language)
        wrong = Counter(row.cause for row, right in zip(rows, found.verdicts == truth.labels, strict=True) if not right)
        print("  wrong:", dict(wrong.most_common(8)))


if __name__ == "__main__":
    settings = [argument for argument in sys.argv[2:] if argument.startswith("language=")]
    named = [Path(argument) for argument in sys.argv[2:] if argument not in settings]
    main(sys.argv[1], named or [_SHIPPED], language=settings[0].partition("=")[2] if settings else None)
