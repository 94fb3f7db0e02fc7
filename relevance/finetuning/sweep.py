"""How much label, how much model is enough: adapters for several bases, numbers of labels and seeds, judged alike.

All cells are judged on the same held-out queries. The sets of one seed are nested: more labels are the fewer and some.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
from pydantic import Field
from sklearn.model_selection import GroupShuffleSplit

from cluster import storage
from cluster.models.files import ModelName
from cluster.models.listing import Listing, list_model
from cluster.models.weight_files import weight_shapes
from cluster.places import CachePath, InputUrl, OutputUrl
from cluster.progress import Progress
from cluster.provenance import code_digest, digest_of
from cluster.statistics.bootstrap import GroupBootstrap
from cluster.tracking import TrackedRun, TrackingSettings, tracked_run
from cluster.training.estimate import Estimated
from relevance.engines.loading import check_engine
from relevance.evaluation.baselines import WORD_OVERLAP
from relevance.evaluation.figures import alpha_draws
from relevance.evaluation.pairs import TIED, EvaluationPairs
from relevance.evaluation.predictions import ask_model
from relevance.evaluation.run import MODEL, judge
from relevance.finetuning.finetune import finetune, resolve_encoder
from relevance.finetuning.recipe import FinetuneInputs, FinetuneSource, FinetuningSettings, Recipe, read_inputs
from relevance.finetuning.run import training_figures

logger = logging.getLogger(__name__)


class SweepSource(Recipe):
    """What is compared."""

    bases: tuple[ModelName, ...] = Field(min_length=1)
    """Causal language models, named as in `relevance_finetune`; smallest first makes the finest plot."""

    num_labels: tuple[int, ...] = Field(default=(100, 300, 0), min_length=1)
    """Labelled pairs to train on; 0: all that are not held out."""

    seeds: tuple[int, ...] = Field(default=(0, 1), min_length=1)
    """Of the choice of pairs and of training."""

    held_out_fraction: float = Field(default=0.25, gt=0, lt=1)
    """Share of the queries that judge every cell."""

    input: InputUrl
    """Labelled pairs, as `relevance_finetune` takes them."""

    weak: InputUrl | None = None
    """Weakly labelled pairs, as `relevance_finetune` takes them."""

    output: OutputUrl
    """Folder for adapters, cells, table and plot, local or s3://."""

    cache_dir: CachePath = "~/.cache/marketplace-llm"
    """Where remote models are kept on a machine."""


@dataclass(frozen=True)
class Cell:
    """One base, fine-tuned on so many labels with one seed, judged on the held-out pairs."""

    base: str
    num_parameters: int | None
    """Of the base; None where its files can only be had whole."""
    num_labels: int
    """Pairs that it was trained on."""
    seed: int
    alpha: float
    alpha_low: float
    """95 % interval, bootstrap over queries."""
    alpha_high: float
    alpha_draws: list[float | None]
    """Alpha first, then that of each of the interval's draws; null where a draw has none."""
    f1_exact: float
    overlap_alpha: float
    """Of logistic regression on word overlap, fitted on the same labels."""
    num_steps: int


def sweep(source: SweepSource, run: TrackedRun, *, tracking: TrackingSettings) -> list[Cell]:
    """Train and judge every cell; a cell that an earlier run finished is read back.

    Raises:
        ValueError: If a base or the pairs are refused.
        RuntimeError: If a training failed.
    """
    estimates: list[Estimated] = []
    cells, total = [], len(source.bases) * len(source.seeds) * len(source.num_labels)
    progress = Progress(total, "cells", every_seconds=0)
    for base in source.bases:
        named = FinetuneSource(**{**source.model_dump(include={"input", "weak", "output", "cache_dir"}), "base": base})
        given = read_inputs(named, registry_uri=run.address.uri)
        check_engine(source.engine, outputs=[source.output], models=[given.base])
        pairs = given.pairs.take(given.pairs.labels != TIED)
        training, held_out = _split(pairs, source.held_out_fraction)
        given.refuse_learnt(held_out)
        for seed, chosen in _subsets(training, source):
            settings = _with_seed(source.finetuning, seed)
            key = _cell_key(given, chosen, held_out, settings, source, registry_uri=run.address.uri)
            place = storage.join_url(source.output, "cells", f"{key}.json")
            if not storage.exists(place):
                title = f"{given.base.version}, {len(chosen)} labels, seed {seed}"
                try:
                    with tracked_run("relevance_sweep", settings, tracking, parent=run, title=title) as child:
                        cell = _run_cell(given, chosen, held_out, settings, child, source, key)
                except Estimated as estimate:
                    estimates.append(estimate)
                    continue
                storage.write_bytes(place, json.dumps(asdict(cell), indent=1).encode())
            cells.append(Cell(**json.loads(storage.read_bytes(place))))
            logger.info("%s, %d labels, seed %d: alpha %.3f", base, len(chosen), seed, cells[-1].alpha)
            progress.add()
    if estimates:
        raise Estimated.of(estimates)
    return cells


def _cell_key(
    given: FinetuneInputs,
    training: EvaluationPairs,
    held_out: EvaluationPairs,
    settings: FinetuningSettings,
    source: SweepSource,
    *,
    registry_uri: str | None,
) -> str:
    """Name a cell by all that its figures are a function of: other weak pairs or intervals are another cell's."""
    meaning = resolve_encoder(given, settings, registry_uri)
    read = [given.base, given.encoder, training, held_out, given.pairs, given.weak, meaning]
    asked = [settings.model_dump(mode="json"), source.evaluation.model_dump(mode="json")]
    asked.append(source.engine.arithmetic(source.engine.quantization))
    return digest_of([[some and some.digest for some in read], asked, code_digest("relevance", "cluster")])


def _with_seed(settings: FinetuningSettings, seed: int) -> FinetuningSettings:
    return settings.model_copy(update={"training": settings.training.model_copy(update={"seed": seed})})


def _split(pairs: EvaluationPairs, fraction: float) -> tuple[EvaluationPairs, EvaluationPairs]:
    splitter = GroupShuffleSplit(1, test_size=fraction, random_state=0)
    _, judged = next(splitter.split(pairs.labels, groups=pairs.groups))
    mask = np.zeros(len(pairs), dtype=bool)
    mask[judged] = True
    held_out = pairs.take(mask)
    return pairs.take(~mask).unseen_by(held_out), held_out


def _subsets(pairs: EvaluationPairs, source: SweepSource) -> Iterator[tuple[int, EvaluationPairs]]:
    """Draw whole queries, in one order per seed, until there are enough pairs."""
    groups = pairs.groups
    for seed in source.seeds:
        place = np.random.default_rng(seed).permutation(groups.max() + 1)[groups]
        order = np.argsort(place, kind="stable")
        for number in source.num_labels:
            enough = number or len(pairs)
            last = place[order[min(enough, len(pairs)) - 1]]
            yield seed, pairs.take(place <= last)


def _run_cell(
    given: FinetuneInputs,
    training: EvaluationPairs,
    held_out: EvaluationPairs,
    settings: FinetuningSettings,
    run: TrackedRun,
    source: SweepSource,
    key: str,
) -> Cell:
    folder = storage.join_url(source.output, "adapters", key)
    inputs = replace(given.without(held_out), pairs=training)
    recipe = source.model_copy(update={"finetuning": settings})
    adapter = finetune(inputs, recipe, run, output=folder, cache_dir=source.cache_dir)
    said = ask_model(held_out.rows, adapter.model, source.engine)
    judged = judge(held_out, said, source.evaluation, training=training, shared_queries=0)
    run.metrics(judged.metrics() | training_figures(adapter))
    alpha = judged.comparison[MODEL]["alpha"]
    values = (alpha.value, alpha.low, alpha.high, judged.figures["f1_exact"].value)
    numbers = [math.nan if value is None else value for value in values]
    evaluation, rows = source.evaluation, said.labelled
    draws = GroupBootstrap(held_out.groups[rows], samples=evaluation.bootstrap_samples, seed=evaluation.seed)
    alphas = alpha_draws(held_out.labels[rows], said.labels[rows], draws)
    overlap = judged.comparison[WORD_OVERLAP]["alpha"].value
    return Cell(
        given.base.version,
        count_parameters(list_model(given.base)),
        len(training),
        settings.training.seed,
        *numbers[:3],
        alpha_draws=[None if math.isnan(drawn) else float(drawn) for drawn in alphas],
        f1_exact=numbers[3],
        overlap_alpha=math.nan if overlap is None else overlap,
        num_steps=len(adapter.losses),
    )


def count_parameters(model: Listing) -> int | None:
    """Count a model's weights, from the headers of its safetensors; None where those cannot be had alone."""
    shapes = weight_shapes(model)
    return sum(map(math.prod, shapes.values())) if shapes else None
