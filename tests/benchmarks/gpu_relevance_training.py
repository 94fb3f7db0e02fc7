"""Recipes for the SmolLM2 adapter side by side on one GPU: cross-validated, the best one trained on everything.

    python -m tests.benchmarks.gpu_relevance_training --base var/pretrained/smollm2-135m --pairs FOLDER \
        --written relevance/finetuning/written_pairs.csv --output var/gpu_relevance

`--pairs` holds labelled_pairs.csv and raw_pairs.csv. Each (recipe, fold) is a process of its own, several at a time on
the GPU, since a step of so small a model is mostly launches. Results are written as they come; last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

FOLDS = 5
SEEDS = (0,)


@dataclass(frozen=True)
class Candidate:
    """A recipe to look at: which pairs, how long, how fast."""

    pairs: tuple[str, ...] = ("labelled",)
    further_epochs: int = 0
    epochs: int = 4
    learning_rate: float = 5e-4
    rank: int = 16
    smoothing: float = 0.05
    guidelines: str = "brief"
    further_weight: float = 0.5
    further_match: bool = True
    pairs_per_step: int = 32
    dropout: float = 0.05


CANDIDATES: dict[str, Candidate] = {
    "labelled": Candidate(),
    "labelled, slow": Candidate(epochs=6, learning_rate=2e-4),
    "written first": Candidate(further_epochs=2, epochs=6, learning_rate=3e-4),
    "written first, as they are": Candidate(further_epochs=2, epochs=6, learning_rate=3e-4, further_match=False),
    "written throughout": Candidate(further_epochs=5, epochs=5, learning_rate=3e-4, further_weight=0.3),
    "both": Candidate(("labelled", "raw"), epochs=4, learning_rate=3e-4),
    "both, written first": Candidate(("labelled", "raw"), further_epochs=2, epochs=5, learning_rate=3e-4),
    "both, written first, rank 32": Candidate(
        ("labelled", "raw"), further_epochs=2, epochs=5, learning_rate=3e-4, rank=32, dropout=0.1
    ),
    "both, written first, slow": Candidate(("labelled", "raw"), further_epochs=3, epochs=8, learning_rate=1e-4),
    "both, written first, smooth": Candidate(
        ("labelled", "raw"), further_epochs=2, epochs=5, learning_rate=3e-4, smoothing=0.15, dropout=0.1
    ),
}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--written", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=300.0, help="no fold is begun after so many")
    parser.add_argument("--only", nargs="*", default=list(CANDIDATES))
    parser.add_argument("--limit", type=int, default=0, help="pairs to look at, for a dry run; 0: all")
    parser.add_argument("--final-seeds", type=int, default=1)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    context = get_context("spawn")
    jobs = [(name, fold) for name in arguments.only for fold in range(FOLDS)]
    said: dict[str, dict[int, Any]] = {}
    with ProcessPoolExecutor(arguments.processes, mp_context=context) as pool:
        futures = {pool.submit(_fold, name, fold, vars(arguments), started): (name, fold) for name, fold in jobs}
        for future in as_completed(futures):
            name, fold = futures[future]
            found = future.result()
            if found is None:
                continue
            said.setdefault(name, {})[fold] = found
            print(f"{time.monotonic() - started:5.0f} s  {name}, fold {fold}: {found['seconds']:.0f} s", flush=True)
            if len(said[name]) == FOLDS:
                print(f"{time.monotonic() - started:5.0f} s  {name}: {json.dumps(_figures(said[name]))}", flush=True)
        table = {name: _figures(folds) for name, folds in said.items() if len(folds) == FOLDS}
        (arguments.output / "crossvalidation.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
        _keep_predictions(said, arguments.output)
        best = max(table, key=lambda name: _score(table[name]), default=arguments.only[0])
        futures_ = [pool.submit(_final, best, seed, vars(arguments)) for seed in range(arguments.final_seeds)]
        for future in futures_:
            print(future.result(), flush=True)
    print(json.dumps({"best": best, "seconds": time.monotonic() - started, "table": table}))


def _score(figures: dict[str, Any]) -> float:
    return figures["labelled"]["alpha"] + 0.3 * figures.get("raw_us", {"alpha": 0.0})["alpha"]


def _inputs(candidate: Candidate, arguments: dict[str, Any]) -> tuple[Any, Any]:
    from relevance.evaluation.pairs import read_evaluation_pairs
    from relevance.finetuning.recipe import FinetuneSource, FinetuningSettings, read_inputs
    from relevance.prompting.prompts import PromptSettings
    from relevance.training.loop import TrainingSettings
    from relevance.weights.adapters import LoraSettings

    folder = Path(arguments["output"]) / f"input-{'-'.join(candidate.pairs)}-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in candidate.pairs:
        shutil.copy(Path(arguments["pairs"]) / f"{name}_pairs.csv", folder)
    source = FinetuneSource(
        base=arguments["base"],
        input=str(folder),
        output="unused",
        prompt=PromptSettings(guidelines=candidate.guidelines),
        finetuning=FinetuningSettings(
            epochs=1 if arguments["limit"] else candidate.epochs,
            further_epochs=0 if arguments["limit"] else candidate.further_epochs,
            allow_missing_labels=bool(arguments["limit"]),
            further_weight=candidate.further_weight,
            further_match=candidate.further_match,
            label_smoothing=candidate.smoothing,
            lora=LoraSettings(rank=candidate.rank, alpha=2.0 * candidate.rank, dropout=candidate.dropout),
            training=TrainingSettings(
                learning_rate=candidate.learning_rate,
                pairs_per_step=candidate.pairs_per_step,
                adam_beta2=0.99,
                checkpoint_steps=100_000,
                report_steps=50,
            ),
        ),
        trainer={"num_workers": 0, "checkpoints": str(Path(arguments["output"]) / f"checkpoints-{os.getpid()}")},
        engine={"device": arguments.get("device", "auto"), "quantization": "none"},
    )
    given = read_inputs(source, registry_uri=None)
    if candidate.further_epochs:
        given = replace(given, further=(read_evaluation_pairs(str(arguments["written"])),))
    if arguments["limit"]:
        rows = np.random.default_rng(0).permutation(len(given.pairs))[: arguments["limit"]]
        given = replace(given, pairs=given.pairs.take(np.isin(np.arange(len(given.pairs)), rows)))
    return given, source


def _fold(name: str, fold: int, arguments: dict[str, Any], started: float) -> dict[str, Any] | None:
    if time.monotonic() - started > arguments["seconds"]:
        return None
    try:
        return _train_and_judge(name, fold, arguments)
    except Exception:
        traceback.print_exc()
        return None


def _train_and_judge(name: str, fold: int, arguments: dict[str, Any]) -> dict[str, Any]:
    import torch

    from relevance.evaluation.predictions import ask_model
    from relevance.finetuning.finetune import finetune
    from relevance.finetuning.pairs import LabelledTexts, split_folds

    torch.set_num_threads(2)
    began = time.monotonic()
    given, source = _inputs(CANDIDATES[name], arguments)
    pairs = given.pairs
    training, judged = split_folds(LabelledTexts(pairs.queries, pairs.titles, pairs.labels), FOLDS, seed=0)[fold]
    own, other = (pairs.take(np.isin(np.arange(len(pairs)), rows)) for rows in (training, judged))
    folder = Path(arguments["output"]) / "folds" / f"{name.replace(' ', '_').replace(',', '')}-{fold}"
    inputs = replace(given.without(other), pairs=own)
    adapter = finetune(inputs, source, None, output=str(folder), cache_dir="/tmp/cache")
    said = ask_model(other.rows, adapter.model, source.engine)
    return {
        "query_ids": other.rows["query_id"].to_pylist(),
        "markets": list(other.markets) if other.markets else [None] * len(other),
        "labels": other.labels.tolist(),
        "probabilities": np.where(said.labelled[:, None], said.probabilities, np.nan).tolist(),
        "seconds": time.monotonic() - began,
    }


def _final(name: str, seed: int, arguments: dict[str, Any]) -> str:
    from safetensors.torch import load_file, save_file

    from relevance.finetuning.finetune import finetune

    given, source = _inputs(CANDIDATES[name], arguments)
    training = source.finetuning.training.model_copy(update={"seed": seed})
    source = source.model_copy(update={"finetuning": source.finetuning.model_copy(update={"training": training})})
    folder = Path(arguments["output"]) / f"adapter{seed}"
    finetune(given, source, None, output=str(folder), cache_dir="/tmp/cache")
    weights = folder / "adapter_model.safetensors"
    halved = {key: tensor.half() for key, tensor in load_file(weights).items()}
    save_file(halved, weights, metadata={"format": "pt"})
    if seed == 0 and not arguments["limit"]:
        _label_recombined(given, source, folder, arguments)
    return f"adapter in {folder}"


def _label_recombined(given: Any, source: Any, adapter: Path, arguments: dict[str, Any]) -> None:
    """Let the adapter label public queries beside titles of others: what a smaller model can learn from."""
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq
    from sklearn.feature_extraction.text import TfidfVectorizer

    from cluster.models.files import resolve_model
    from relevance.engines.label_model import LabelModel
    from relevance.evaluation.pairs import read_evaluation_pairs
    from relevance.evaluation.predictions import ask_model

    texts: list[tuple[str, str]] = []
    for path in (*Path(arguments["pairs"]).glob("*.csv"), Path(arguments["written"])):
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("market", "US") == "US"]
        texts += [(row["query"], row["title"]) for row in rows]
    queries, titles = sorted({query for query, _ in texts}), sorted({title for _, title in texts})
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    of_titles = vectorizer.fit_transform(titles)
    likeness = (vectorizer.transform(queries) @ of_titles.T).toarray()
    rng = np.random.default_rng(0)
    pairs = {(i, int(j)) for i in range(len(queries)) for j in np.argsort(-likeness[i])[:14]}
    pairs |= {(i, int(j)) for i in range(len(queries)) for j in rng.integers(0, len(titles), 3)}
    path = adapter.parent / "recombined.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query_id", "product_id", "query", "title", "label"])
        writer.writerows([f"q{i}", f"p{j}", queries[i], titles[j], "exact"] for i, j in sorted(pairs))
    table = read_evaluation_pairs(str(path))
    model = LabelModel(given.base, resolve_model(str(adapter)), quantization="none", cache_dir="/tmp/cache")
    said = ask_model(table.rows, model, source.engine)
    probabilities = [pa.array(said.probabilities[:, label].astype(np.float16)) for label in range(4)]
    kept = pa.table([pa.array(table.queries), pa.array(table.titles), *probabilities], ["query", "title", *"esci"])
    pq.write_table(kept, adapter.parent / "recombined.parquet", compression="zstd")


def _figures(folds: dict[int, Any]) -> dict[str, Any]:
    """Alpha, accuracy, macro-F1 and F1 of exact, per source, over all folds' judged pairs."""
    from relevance.agreement import nominal_alpha

    labels = np.concatenate([folds[fold]["labels"] for fold in sorted(folds)])
    probabilities = np.concatenate([folds[fold]["probabilities"] for fold in sorted(folds)])
    ids = [key for fold in sorted(folds) for key in folds[fold]["query_ids"]]
    markets = [market for fold in sorted(folds) for market in folds[fold]["markets"]]
    said = np.where(np.isnan(probabilities[:, 0]), -1, np.nan_to_num(probabilities).argmax(1))
    kinds = np.array(
        [
            "labelled" if key.startswith("q") else f"raw_{market.lower()}"
            for key, market in zip(ids, markets, strict=True)
        ]
    )
    found = {}
    for kind in sorted(set(kinds)):
        rows = kinds == kind
        truth, guess = labels[rows], said[rows]
        judged = guess >= 0
        f1 = [_f1(truth == label, guess == label) for label in range(4)]
        found[kind] = {
            "n": int(rows.sum()),
            "unlabelled": int((~judged).sum()),
            "alpha": round(float(nominal_alpha(np.stack([truth[judged], guess[judged]]))), 4),
            "accuracy": round(float((truth == guess).mean()), 4),
            "macro_f1": round(float(np.mean(f1)), 4),
            "f1_exact": round(f1[0], 4),
            "said": np.bincount(guess[judged], minlength=4).tolist(),
        }
    return found


def _f1(truth: np.ndarray, guess: np.ndarray) -> float:
    return float(2 * (truth & guess).sum() / max(truth.sum() + guess.sum(), 1))


def _keep_predictions(said: dict[str, dict[int, Any]], output: Path) -> None:
    rows = {
        name: {
            fold: {key: found[key] for key in ("query_ids", "labels", "probabilities")} for fold, found in folds.items()
        }
        for name, folds in said.items()
    }
    (output / "predictions.json").write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
