"""What fine-tuning is given: a recipe (settings) and its inputs (a base, a prompt, pairs of three kinds)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from cluster.models.files import ModelFiles, ModelName, fetch_model, resolve_model
from cluster.models.listing import list_model
from cluster.models.weight_files import check_adapter_files
from cluster.places import CachePath, InputUrl, OutputUrl
from cluster.settings import Settings
from cluster.training.train import TrainerSettings
from relevance.engines.label_model import check_prompt, load_tokenizer
from relevance.engines.settings import EngineSettings
from relevance.evaluation.figures import EvaluationSettings
from relevance.evaluation.pairs import EvaluationPairs, count_shared, read_evaluation_pairs
from relevance.finetuning.distilled_pairs import DistilledPairs, read_distilled_pairs
from relevance.finetuning.pairs import LabelledTexts, WeakPairs, read_weak_pairs
from relevance.finetuning.taught_pairs import TeachingSettings
from relevance.prompting.prompts import PROMPT_FILE, PromptEncoder, PromptSettings, load_prompt_settings
from relevance.training.loop import TrainingSettings
from relevance.weights.adapters import LoraSettings, check_adapter_shape
from relevance.weights.origin import learnt_queries


class FinetuningSettings(Settings):
    """LoRA on the label token."""

    lora: LoraSettings = LoraSettings()
    half: bool = False
    """Write the adapter in half precision, at half the size."""

    training: TrainingSettings = TrainingSettings()
    epochs: int = Field(default=2, ge=1)
    """Passes over the labelled pairs."""

    further_epochs: int = Field(default=0, ge=0)
    """Passes that begin the training with the further pairs in them; the ones after see the labelled pairs alone."""

    further_weight: float = Field(default=0.5, gt=0)
    """How much a further pair counts beside a labelled one."""

    further_match: bool = True
    """Weigh the further pairs so that they have the four labels as often as the labelled pairs."""

    distilled_epochs: int = Field(default=0, ge=0)
    """Passes that begin the training with the distilled pairs in them."""

    distilled_weight: float = Field(default=1.0, gt=0)
    """How much a distilled pair counts beside a labelled one."""

    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    class_weights: Literal["none", "root", "balanced"] = "none"
    """`balanced`: the rarer a label, the more its pairs count, all labels alike in sum; `root`: by the square root of
    that, between the two."""

    allow_missing_labels: bool = False
    """Train although one of the four labels has no pair: the model will hardly ever give it."""

    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the queries kept back to choose the best checkpoint by alpha, and to stop early; 0: the last counts."""

    judged_fraction: float | None = Field(default=None, ge=0, lt=1)
    """Share of the queries kept back from training and from the choice of the checkpoint: the report's figures are of
    these alone. Null: as many as validate. Cross-validation and sweeps judge on pairs of their own."""

    teaching: TeachingSettings = TeachingSettings()
    """Only used together with weakly labelled pairs."""


class Recipe(Settings):
    """How an adapter is trained and judged."""

    finetuning: FinetuningSettings = FinetuningSettings()
    trainer: TrainerSettings = TrainerSettings()
    engine: EngineSettings = EngineSettings()
    """Judges the adapter, as it would score."""

    evaluation: EvaluationSettings = EvaluationSettings()


class FinetuneSource(Recipe):
    """What is trained, on which labels."""

    base: ModelName
    """Causal language model: folder, s3:// folder, models:/name@alias of MLflow, or hub id; not quantised."""

    adapter: ModelName | None = None
    """An adapter of this base to go on from (folder, s3:// folder or registry name), of the same rank and scale."""

    input: InputUrl
    """Labelled pairs (parquet, CSV or JSONL; a file or folder, local or s3://), as the evaluation job takes them."""

    further: tuple[InputUrl, ...] = ()
    """More labelled pairs, of other sources, in the same forms: they begin the training (`finetuning.further_epochs`)
    and never judge."""

    spared: InputUrl | None = None
    """Labelled pairs that a later stage is judged on: pairs of `input` and `further` that share a query or a title with
    one of them are left out."""

    distilled: InputUrl | None = None
    """Pairs that nobody labelled, in the forms that the scoring job reads (`jobs.relevance_recombine` makes some): the
    targets are what a larger model says of them (`distilled_scores`). They begin the training
    (`finetuning.distilled_epochs`) and never judge."""

    distilled_scores: InputUrl | None = None
    """The finished day of scores of those pairs, by the model that teaches."""

    distilled_by: ModelName | None = None
    """The adapter that made those scores, or the model: what it learnt from must not judge its pupil."""

    weak: InputUrl | None = None
    """CSV with the columns query, title, is_substitute (yes or no, noisy), which stretch few labels; see
    `finetuning.teaching`. Of the labelled pairs only query and title are looked at then."""

    teacher_pairs: tuple[InputUrl, ...] = ()
    """Labelled pairs of other sources from which the teacher alone learns what it says of the weak pairs; its
    cross-encoder, if it has one (`finetuning.teaching.cross_encoder`)."""

    output: OutputUrl
    """Folder for the adapter, local or s3://."""

    prompt: PromptSettings | None = None
    """The prompt to train on. None: the base's own (prompt.json beside it), else the full guidelines."""

    cache_dir: CachePath = "~/.cache/marketplace-llm"
    """Where remote models are kept on a machine."""


@dataclass(frozen=True)
class FinetuneInputs:
    """What the settings name, found and read."""

    base: ModelFiles
    encoder: PromptEncoder
    pairs: EvaluationPairs
    weak: WeakPairs | None = None
    distilled: DistilledPairs | None = None
    further: tuple[EvaluationPairs, ...] = ()
    adapter: ModelFiles | None = None
    """What the training goes on from."""
    teacher_pairs: tuple[EvaluationPairs, ...] = ()
    base_queries: frozenset[str] | None = frozenset()
    """Digests of the queries that base, adapter and the distilled pairs' teacher have learnt from
    (`evaluation.pairs.query_digests`); None where adapter or teacher do not say."""

    def refuse_learnt(self, judged: EvaluationPairs) -> None:
        """Refuse to judge by what went into the weights before.

        Raises:
            ValueError: If base, adapter or teacher saw queries of these pairs, or do not say what they saw.
        """
        shared = count_shared(judged, self.base_queries)
        if shared is None:
            raise ValueError(
                "whether the adapter or the teacher learnt from the queries that are to judge is not known (no "
                "training.json with training_queries beside it): fine-tune it again, which leaves them there, or judge "
                "nothing (finetuning.judged_fraction=0)"
            )
        if shared:
            raise ValueError(
                f"the base or the adapter learnt from {shared} of the queries that are to judge: leave them out of "
                "its training"
            )

    def without(self, judged: EvaluationPairs) -> FinetuneInputs:
        """Drop pairs of all other kinds that share a query or a title with pairs that judge."""
        texts = LabelledTexts(judged.queries, judged.titles, judged.labels)
        return replace(
            self,
            weak=self.weak.without(texts) if self.weak else None,
            distilled=self.distilled.without(texts) if self.distilled else None,
            further=tuple(some.unseen_by(judged) for some in self.further),
            teacher_pairs=tuple(some.unseen_by(judged) for some in self.teacher_pairs),
        )


def read_inputs(source: FinetuneSource, *, registry_uri: str | None) -> FinetuneInputs:
    """Pin the base and read the pairs; `registry_uri` as in `resolve_model`.

    Raises:
        ValueError: If the model, its prompt, the adapter or the pairs are refused.
    """
    base = resolve_model(source.base, registry_uri=registry_uri)
    folder = fetch_model(base, cache_dir=source.cache_dir, weights=False)
    if source.prompt is not None and (folder / PROMPT_FILE).exists() and source.prompt != load_prompt_settings(folder):
        raise ValueError(f"base {base.version} has a {PROMPT_FILE} of its own: leave the prompt's settings out")
    encoder = PromptEncoder(load_tokenizer(folder), source.prompt or load_prompt_settings(folder))
    check_prompt(encoder, folder, base.version)
    weak = read_weak_pairs(source.weak) if source.weak else None
    further = tuple(read_evaluation_pairs(url) for url in source.further)
    queries: frozenset[str] | None = learnt_queries(folder) or frozenset()
    adapter = resolve_model(source.adapter, registry_uri=registry_uri) if source.adapter else None
    if adapter:
        check_adapter_files(list_model(adapter), list_model(base))
        adapter_folder = fetch_model(adapter, cache_dir=source.cache_dir)
        check_adapter_shape(adapter_folder, source.finetuning.lora)
        queries = _with(queries, learnt_queries(adapter_folder))
    distilled, taught = _read_distilled(source, registry_uri)
    queries = _with(queries, taught)
    pairs = read_evaluation_pairs(source.input)
    teacher_pairs = tuple(read_evaluation_pairs(url) for url in source.teacher_pairs)
    if teacher_pairs and weak is None:
        raise ValueError("teacher_pairs teach whoever labels the weak pairs: give some (weak=…), or leave them out")
    if source.finetuning.teaching.cross_encoder.epochs and not (source.finetuning.teaching.encoder and teacher_pairs):
        raise ValueError(
            "finetuning.teaching.cross_encoder.epochs: a cross-encoder is made of finetuning.teaching.encoder and "
            "learns labels from teacher_pairs: name both, or set it to 0"
        )
    given = FinetuneInputs(base, encoder, pairs, weak, distilled, further, adapter, teacher_pairs, queries)
    if source.spared:
        spared = read_evaluation_pairs(source.spared)
        given = replace(given.without(spared), pairs=given.pairs.unseen_by(spared))
    return given


def _with(some: frozenset[str] | None, others: frozenset[str] | None) -> frozenset[str] | None:
    return None if some is None or others is None else some | others


def _read_distilled(
    source: FinetuneSource, registry_uri: str | None
) -> tuple[DistilledPairs | None, frozenset[str] | None]:
    """Give the distilled pairs and what their teacher learnt from; None where it does not say."""
    pairs, scores, teacher = source.distilled, source.distilled_scores, source.distilled_by
    if pairs is None and scores is None and teacher is None:
        return None, frozenset()
    if pairs is None or scores is None or teacher is None:
        raise ValueError(
            "distilled, distilled_scores and distilled_by belong together: pairs, what a model said of them, the model"
        )
    folder = fetch_model(resolve_model(teacher, registry_uri=registry_uri), cache_dir=source.cache_dir)
    return read_distilled_pairs(pairs, scores), learnt_queries(folder)
