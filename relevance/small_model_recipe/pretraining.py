"""The small model from nothing: its shape, a start that favours matching, and training on generated pairs.

Real text enters only as titles; no human label is seen here.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cluster.models.files import resolve_model
from cluster.models.sentence_encoder import SentenceEncoder
from cluster.provenance import code_digest, digest_of
from cluster.settings import Settings
from cluster.tracking import TrackedRun
from cluster.training.train import TrainerSettings, train
from relevance.prompting.prompts import PromptEncoder, save_prompt_settings
from relevance.small_model_recipe.generated_pairs import GeneratedPairs, GenerationSettings
from relevance.small_model_recipe.matching_start import prompt_marks, write_matching_circuit
from relevance.small_model_recipe.meanings import piece_meanings
from relevance.training.loop import TrainingSettings, TrainingTask, train_worker
from relevance.training.state import MODEL
from relevance.weights.quantization import copy_companions

_CODE = (
    "cluster.training",
    "relevance.prompting",
    "relevance.weights",
    "relevance.training",
    "relevance.small_model_recipe",
)
"""What decides the weights, given the settings: a run that other code has begun is not gone on with."""


class ModelShape(Settings):
    """A Llama of a size that fits into a repository."""

    hidden_size: int = Field(default=256, ge=32, multiple_of=32)
    num_layers: int = Field(default=4, ge=2)
    num_heads: int = Field(default=4, ge=1)
    intermediate_size: int = Field(default=512, ge=32, multiple_of=32)
    vocab_size: int = Field(default=8192, ge=512)
    """Entries of the tokeniser to train."""

    rope_theta: float = Field(default=100_000.0, gt=1)
    """Base of the rotary frequencies; higher leaves more of a head blind to distance, which matching needs."""


class PretrainingSettings(Settings):
    """Label-token training from scratch. The defaults are for minutes on a laptop, the TOML's for an hour."""

    num_pairs: int = Field(default=20_000, ge=1)
    """Generated pairs in all; none is seen twice."""

    drawing_processes: int = Field(default=0, ge=0)
    """Processes of each worker that draw pairs ahead, beyond its own cores; 0: the worker draws between steps. One
    draws 5,000 to 15,000 pairs a second, a CPU learns from some hundreds, a GPU from tens of thousands."""

    generation: GenerationSettings = GenerationSettings()
    training: TrainingSettings = TrainingSettings(
        learning_rate=5e-4, weight_decay=0.05, adam_beta2=0.98, pairs_per_step=192
    )


def new_model(
    shape: ModelShape, encoder: PromptEncoder, *, seed: int = 0, meanings: SentenceEncoder | None = None
) -> LlamaForCausalLM:
    """Make a Llama that starts with the matching circuit (`matching_start.py`) and is random besides.

    With `meanings` half of its embeddings' dimensions start from what that encoder knows of the tokeniser's pieces.
    """
    torch.manual_seed(seed)
    tokenizer = encoder.tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_heads,
        head_dim=shape.hidden_size // shape.num_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    product, query = encoder.encode_products(["\n\nProduct: a"])[0], encoder.encode_queries(["\n\nQuery: a"])[0]
    marks = prompt_marks(encoder.guidelines_ids, product, query, encoder.label_ids)
    known = piece_meanings(tokenizer, meanings, width=shape.hidden_size // 2) if meanings else None
    write_matching_circuit(model, marks, seed=seed, meanings=known)
    return model


def pretrain(
    start: Path,
    encoder: PromptEncoder,
    titles: Sequence[str],
    settings: PretrainingSettings,
    trainer: TrainerSettings,
    run: TrackedRun,
    *,
    output: Path,
) -> list[float]:
    """Train the model in `start` on generated pairs and write it to `output`; returns the loss of every step.

    A run that was broken off goes on from its last checkpoint.
    """
    model = resolve_model(str(start))
    task = TrainingTask(
        model=model,
        cache_dir="",
        prompt=encoder.prompt,
        source=GeneratedPairs(titles, settings.generation, seed=settings.training.seed),
        steps=max(settings.num_pairs // settings.training.pairs_per_step, 1),
        settings=settings.training,
        lora=None,
        drawing_processes=settings.drawing_processes,
    )
    decides = [model.digest, settings.model_dump(mode="json"), list(titles), code_digest(*_CODE)]
    name = f"pretrain-{digest_of(decides)}"
    outcome = train(train_worker, {"task": task}, trainer, name=name, curves=run.address)
    with tempfile.TemporaryDirectory() as folder:
        trained = outcome.fetch_checkpoint(Path(folder)) / MODEL
        shutil.copytree(trained, output, dirs_exist_ok=True)
    copy_companions(start, output)
    return outcome.returned["losses"]


def save_model(model: PreTrainedModel, encoder: PromptEncoder, folder: Path) -> None:
    """Write weights, tokeniser and prompt: a folder that every engine can load."""
    model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    save_prompt_settings(encoder.prompt, folder)
