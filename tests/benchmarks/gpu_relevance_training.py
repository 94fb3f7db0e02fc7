"""One GPU, some minutes: recipes for SmolLM2's adapter side by side, and the small model taught by the best.

    python -m tests.benchmarks.gpu_relevance_training --base var/pretrained/smollm2-135m --small var/models/small_base \
        --pairs ../shared/data/esci --written relevance/finetuning/written_pairs.csv --output var/gpu_relevance

`--pairs` holds labelled_pairs.csv, raw_pairs.csv and substitute_binary.csv. Each recipe is cross-validated over both
sources at once, folds by query; then, for each fold of the best one and for all pairs, its adapter labels recombined
texts that the fold's judged pairs share nothing with, and small models learn from that. An adapter that lies in
OUTPUT/adapters/NAME-None already stands for the recipe on all pairs. Several processes share the GPU, since a step of
so small a model is mostly launches. What was said is written as it comes; last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import traceback
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

FOLDS = 2
MARKETS = ("US",)


@dataclass(frozen=True)
class Candidate:
    """A recipe to look at."""

    both: bool = True
    """Learn from raw pairs as from labelled ones; else they are among the further pairs."""
    epochs: int = 4
    further_epochs: int = 2
    further_weight: float = 0.5
    weak: bool = False
    learning_rate: float = 4e-4
    class_weights: str = "root"
    rank: int = 16


CANDIDATES: dict[str, Candidate] = {
    "both, written first": Candidate(further_epochs=1),
    "labelled last": Candidate(both=False, further_weight=1.0),
}

PUPILS: dict[str, dict[str, Any]] = {
    "distilled": {"distilled_epochs": 2, "epochs": 3, "weak": True},
    "distilled, labels alone": {"distilled_epochs": 3, "epochs": 4, "weak": False},
}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True)
    parser.add_argument("--small", required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--written", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=200.0, help="no fold is begun after so many")
    parser.add_argument("--only", nargs="*", default=list(CANDIDATES))
    parser.add_argument("--pupils", nargs="*", default=list(PUPILS))
    parser.add_argument("--limit", type=int, default=0, help="pairs to look at, for a dry run; 0: all")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    given, started = vars(arguments), time.monotonic()
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:

        def collect(futures: dict[Future[Any], tuple[str, Any]]) -> dict[str, dict[Any, Any]]:
            said: dict[str, dict[Any, Any]] = {}
            for future in as_completed(futures):
                name, fold = futures[future]
                if (found := future.result()) is None:
                    continue
                said.setdefault(name, {})[fold] = found
                shown = json.dumps(figures(found))
                print(
                    f"{time.monotonic() - started:5.0f} s  {name}, {fold}: {found['seconds']:.0f} s {shown}", flush=True
                )
            return said

        jobs = [(name, fold) for name in arguments.only for fold in range(FOLDS)]
        said = collect({pool.submit(_tried, _fold, *job, given, started): job for job in jobs})
        table = {name: figures(*folds.values()) for name, folds in said.items() if len(folds) == FOLDS}
        best = max(table, key=lambda name: score(table[name]), default=arguments.only[0])
        print(json.dumps({"best": best, "table": table}, indent=1), flush=True)
        chains = {pool.submit(_tried, _label, best, fold, given, None): fold for fold in (None, *range(FOLDS))}
        pupils: dict[Future[Any], tuple[str, Any]] = {}
        for future in as_completed(chains):
            fold = chains[future]
            print(f"{time.monotonic() - started:5.0f} s  {best}, {fold}: {future.result()} recombined", flush=True)
            pupils |= {pool.submit(_tried, _pupil, name, fold, given, None): (name, fold) for name in arguments.pupils}
        taught = collect(pupils)
    tables = {name: figures(*(found for fold, found in of.items() if fold is not None)) for name, of in taught.items()}
    print(json.dumps({"best": best, "seconds": time.monotonic() - started, "table": table, "pupils": tables}))


def score(found: dict[str, Any]) -> float:
    """What recipes are compared by."""
    return found["labelled"]["alpha"] + 0.5 * found.get("raw_us", {"alpha": 0.0})["alpha"]


def _tried(work: Any, name: str, fold: int | None, given: dict[str, Any], started: float | None) -> Any:
    if started is not None and time.monotonic() - started > given["seconds"]:
        return None
    import torch

    torch.set_num_threads(2)
    began = time.monotonic()
    try:
        found = work(name, fold, given)
        if isinstance(found, dict):  # kept at once: a lent machine may end before the others have come
            found["seconds"] = time.monotonic() - began
            kept = given["output"] / "said" / f"{_file_name(name, fold)}.json"
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(found), encoding="utf-8")
        return found
    except Exception:  # the others' figures must not be lost with this one
        traceback.print_exc()
        return None


@cache
def _read(folder: str) -> tuple[Any, np.ndarray]:
    """Give labelled and raw pairs together, and which of them are labelled ones."""
    from relevance.evaluation.pairs import read_evaluation_pairs

    pairs = read_evaluation_pairs(folder)
    return pairs, np.array([key.startswith("q") for key in pairs.rows["query_id"].to_pylist()])


def _folded(fold: int | None, given: dict[str, Any]) -> tuple[Any, np.ndarray, Any]:
    """Give (pairs to learn from, which of them are labelled ones, pairs that judge or None)."""
    from relevance.finetuning.pairs import LabelledTexts, split_folds

    folder = given["output"] / "input"
    if not folder.exists():
        staging = given["output"] / f"input-{os.getpid()}"
        staging.mkdir()
        for name in ("labelled_pairs.csv", "raw_pairs.csv"):
            (staging / name).write_bytes((given["pairs"] / name).read_bytes())
        with suppress(OSError):  # another process was quicker
            staging.rename(folder)
    pairs, labelled = _read(str(folder))
    if given["limit"]:
        keep = np.isin(np.arange(len(pairs)), np.random.default_rng(0).permutation(len(pairs))[: given["limit"]])
        pairs, labelled = pairs.take(keep), labelled[keep]
    if fold is None:
        return pairs, labelled, None
    texts = LabelledTexts(pairs.queries, pairs.titles, pairs.labels)
    training, judged = (np.isin(np.arange(len(pairs)), rows) for rows in split_folds(texts, FOLDS, seed=0)[fold])
    return pairs.take(training), labelled[training], pairs.take(judged)


def _source(candidate: Candidate, given: dict[str, Any], fold: int | None) -> Any:
    from relevance.finetuning.recipe import FinetuneSource, FinetuningSettings
    from relevance.prompting.prompts import PromptSettings
    from relevance.training.loop import TrainingSettings
    from relevance.weights.adapters import LoraSettings

    dry = bool(given["limit"])
    return FinetuneSource(
        base=given["base"],
        input=str(given["output"] / "input"),
        output="unused",
        weak=str(given["pairs"] / "substitute_binary.csv") if candidate.weak else None,
        prompt=PromptSettings(guidelines="brief", product_token_budget=80),
        finetuning=FinetuningSettings(
            half=True,
            epochs=1 if dry else candidate.epochs,
            further_epochs=0 if dry else candidate.further_epochs,
            allow_missing_labels=dry,
            further_weight=candidate.further_weight,
            class_weights=candidate.class_weights,
            lora=LoraSettings(rank=candidate.rank, alpha=2.0 * candidate.rank),
            training=TrainingSettings(
                learning_rate=candidate.learning_rate,
                pairs_per_step=64,
                pairs_per_forward=64,
                adam_beta2=0.99,
                checkpoint_steps=100_000,
                report_steps=50,
            ),
        ),
        trainer={"num_workers": 0, "checkpoints": str(given["output"] / f"checkpoints-{os.getpid()}")},
        engine={"quantization": "none"},
    )


def _train(name: str, fold: int | None, given: dict[str, Any], folder: Path) -> tuple[Any, Any, Any]:
    """Train a candidate; give its adapter, the pairs that judge it and the settings."""
    from relevance.evaluation.pairs import read_evaluation_pairs
    from relevance.finetuning.finetune import finetune
    from relevance.finetuning.recipe import read_inputs

    candidate = CANDIDATES[name]
    own, labelled, judged = _folded(fold, given)
    source = _source(candidate, given, fold)
    inputs = read_inputs(source, registry_uri=None)
    further = (read_evaluation_pairs(str(given["written"])),)
    if not candidate.both:
        further, own = (own.take(~labelled), *further), own.take(labelled)
    inputs = replace(inputs, further=further)
    inputs = replace(inputs.without(judged) if judged is not None else inputs, pairs=own)
    adapter = finetune(inputs, source, None, output=str(folder), cache_dir="/tmp/cache")
    return adapter.model, judged, source


def _fold(name: str, fold: int, given: dict[str, Any]) -> dict[str, Any]:
    model, judged, source = _train(name, fold, given, _folder(given, name, fold))
    return _judge(judged, model, source.engine)


def _folder(given: dict[str, Any], name: str, fold: int | None) -> Path:
    return given["output"] / "adapters" / _file_name(name, fold)


def _file_name(name: str, fold: int | None) -> str:
    return f"{name.replace(' ', '_').replace(',', '')}-{fold}"


def _label(name: str, fold: int | None, given: dict[str, Any]) -> str:
    """Let an adapter label recombined texts that its judged pairs share nothing with."""
    import pyarrow as pa

    from cluster.models.files import resolve_model
    from relevance.engines.label_model import LabelModel
    from relevance.evaluation.predictions import ask_model
    from relevance.finetuning.pairs import LabelledTexts, keep_unseen, read_texts
    from relevance.finetuning.recombined import RecombinationSettings, recombine
    from relevance.pairs.pair import clean_pairs

    _, _, judged = _folded(fold, given)
    if fold is None and not _folder(given, name, None).exists():
        _train(name, None, given, _folder(given, name, None))
    paths = [*sorted(given["pairs"].glob("*.csv")), given["written"]]
    texts = [one for path in paths for one in read_texts(str(path), MARKETS)]
    if given["limit"]:
        texts = texts[:: len(texts) // given["limit"]]
    queries, titles = [query for query, _ in texts], [title for _, title in texts]
    if judged is not None:
        spared = LabelledTexts(judged.queries, judged.titles, judged.labels)
        keep = keep_unseen(queries, titles, spared)
        queries, titles = [queries[i] for i in keep], [titles[i] for i in keep]
    drawn = recombine(queries, titles, RecombinationSettings(queries_per_title=5))
    if judged is not None:
        drawn = drawn.take(keep_unseen(drawn["query"].to_pylist(), drawn["title"].to_pylist(), spared))
    rows = clean_pairs(drawn, max_text_bytes=100_000).append_column("shown_title", drawn["title"])
    rows = rows.filter(pa.compute.is_null(rows["error"]))
    base = resolve_model(given["base"])
    model = LabelModel(
        base, resolve_model(str(_folder(given, name, fold))), quantization="none", cache_dir="/tmp/cache"
    )
    said = ask_model(rows, model, _source(CANDIDATES[name], given, fold).engine)
    kept = pa.table(
        {
            "product": rows["product_text"],
            "title": rows["shown_title"].cast(pa.string()),
            "query": rows["query"],
            **{f"p{label}": said.probabilities[:, label].astype(np.float16) for label in range(4)},
        }
    ).filter(pa.array(said.labelled))
    pq.write_table(kept, given["output"] / f"recombined-{fold}.parquet", compression="zstd")
    return f"{len(kept)} pairs"


def _pupil(name: str, fold: int | None, given: dict[str, Any]) -> dict[str, Any] | str:
    """Teach a small model what an adapter said, beside the labelled pairs; judge it by labelled pairs alone."""
    from relevance.finetuning.distilled_pairs import DistilledPairs
    from relevance.finetuning.finetune import finetune
    from relevance.finetuning.recipe import FinetuneSource, FinetuningSettings, read_inputs
    from relevance.training.loop import TrainingSettings
    from relevance.weights.adapters import LoraSettings

    pupil, dry = PUPILS[name], bool(given["limit"])
    own, labelled, judged = _folded(fold, given)
    source = FinetuneSource(
        base=given["small"],
        input=str(given["output"] / "input"),
        output="unused",
        weak=str(given["pairs"] / "substitute_binary.csv") if pupil["weak"] else None,
        finetuning=FinetuningSettings(
            epochs=1 if dry else pupil["epochs"],
            distilled_epochs=pupil["distilled_epochs"],
            allow_missing_labels=dry,
            lora=LoraSettings(rank=pupil.get("rank", 16), alpha=2.0 * pupil.get("rank", 16)),
            training=TrainingSettings(checkpoint_steps=100_000),
        ),
        trainer={"num_workers": 0, "checkpoints": str(given["output"] / f"checkpoints-{os.getpid()}")},
        engine={"quantization": "none"},
    )
    read = pq.read_table(given["output"] / f"recombined-{fold}.parquet")
    shares = np.stack([read[f"p{label}"].to_numpy().astype(np.float64) for label in range(4)], axis=1)
    distilled = DistilledPairs(
        *(read[column].to_pylist() for column in ("product", "title", "query")),
        shares / shares.sum(1, keepdims=True),
        "smollm2",
    )
    inputs = replace(read_inputs(source, registry_uri=None), distilled=distilled)
    inputs = replace(inputs.without(judged) if judged is not None else inputs, pairs=own.take(labelled))
    folder = given["output"] / "pupils" / _file_name(name, fold)
    adapter = finetune(inputs, source, None, output=str(folder), cache_dir="/tmp/cache")
    if judged is None:
        judged = own  # what it remembers; counts for nothing
    return _judge(judged, adapter.model, source.engine)


def _judge(judged: Any, model: Any, engine: Any) -> dict[str, Any]:
    from relevance.evaluation.predictions import ask_model

    said = ask_model(judged.rows, model, engine)
    return {
        "query_ids": judged.rows["query_id"].to_pylist(),
        "product_ids": judged.rows["product_id"].to_pylist(),
        "markets": list(judged.markets) if judged.markets else [None] * len(judged),
        "labels": judged.labels.tolist(),
        "probabilities": np.where(said.labelled[:, None], said.probabilities, -1).round(5).tolist(),
    }


def figures(*found: dict[str, Any]) -> dict[str, Any]:
    """Alpha, accuracy, macro-F1 and F1 of exact, per source, over all judged pairs."""
    from relevance.agreement import nominal_alpha

    labels = np.concatenate([one["labels"] for one in found])
    probabilities = np.concatenate([one["probabilities"] for one in found])
    kinds = np.array(
        [
            "labelled" if key.startswith("q") else f"raw_{market.lower()}"
            for one in found
            for key, market in zip(one["query_ids"], one["markets"], strict=True)
        ]
    )
    table = {}
    for kind in sorted(set(kinds)):
        rows = kinds == kind
        truth, guess = labels[rows], np.where(probabilities[rows, 0] < 0, -1, probabilities[rows].argmax(1))
        judged = guess >= 0
        f1 = [_f1(truth == label, guess == label) for label in range(4)]
        table[kind] = {
            "n": int(rows.sum()),
            "alpha": round(float(nominal_alpha(np.stack([truth[judged], guess[judged]]))), 4),
            "accuracy": round(float((truth == guess).mean()), 4),
            "macro_f1": round(float(np.mean(f1)), 4),
            "f1_exact": round(f1[0], 4),
            "said": np.bincount(guess[judged], minlength=4).tolist(),
        }
    return table


def _f1(truth: np.ndarray, guess: np.ndarray) -> float:
    return float(2 * (truth & guess).sum() / max(truth.sum() + guess.sum(), 1))


if __name__ == "__main__":
    main()
