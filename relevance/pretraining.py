"""The small model from nothing: its shape, a start that favours matching, and training on generated pairs.

Real text enters only as titles; no human label is seen here.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cluster.settings import Settings
from relevance.catalogue import CatalogueWriter
from relevance.labels import LABELS
from relevance.matching import MatchingWriter
from relevance.matching_start import prompt_marks, write_matching_circuit
from relevance.packing import ProductExample, batches_by_length, label_loss, next_token_logits
from relevance.prompts import PromptEncoder, product_texts, query_texts, save_prompt_settings

logger = logging.getLogger(__name__)

_LABEL_SHARES = {"exact": 0.42, "substitute": 0.36, "complement": 0.08, "irrelevant": 0.14}


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

    pairs_per_step: int = Field(default=192, ge=1)
    queries_per_product: int = Field(default=8, ge=1)
    """Queries that share a product's tokens in a row: more is cheaper and less varied."""

    products_per_pool: int = Field(default=384, ge=1)
    """Products drawn at a time, from which batches of about the same length are made."""

    matching_fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of products with queries about words alone (`relevance.matching`); the rest is the catalogue."""

    learning_rate: float = Field(default=5e-4, gt=0)
    """At its peak, after the first twentieth of the steps; falls to a twentieth as a cosine."""

    weight_decay: float = Field(default=0.05, ge=0)
    label_smoothing: float = Field(default=0.02, ge=0, lt=1)
    bf16: bool = True
    """Matrix products in bfloat16, weights in float32: three times the speed where the CPU has the instructions."""

    seed: int = 0


def new_model(shape: ModelShape, encoder: PromptEncoder, *, seed: int = 0) -> LlamaForCausalLM:
    """Make a Llama that starts with the matching circuit (`relevance.matching_start`) and is random besides."""
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
    write_matching_circuit(model, prompt_marks(encoder.guidelines_ids, product, query, encoder.label_ids), seed=seed)
    return model


def generated_examples(
    encoder: PromptEncoder, titles: Sequence[str], settings: PretrainingSettings
) -> Iterator[list[ProductExample]]:
    """Draw pools of products with queries and smoothed labels, without end, tokenised as in scoring."""
    chooser = random.Random(settings.seed)
    catalogue = CatalogueWriter(f"catalogue {settings.seed}")
    # Catalogue titles join the real ones, so that matching alone never tells which generator was at work.
    matching = MatchingWriter(f"matching {settings.seed}", [*titles, *(catalogue.product().title for _ in range(2000))])
    while True:
        rows, queries, labels = [], [], []
        for _ in range(settings.products_per_pool):
            if chooser.random() < settings.matching_fraction:
                title = matching.title()
                rows.append({"title": title})
                drawn = [matching.query(title) for _ in range(settings.queries_per_product)]
            else:
                row, drawn = _catalogue_product(catalogue, settings.queries_per_product, chooser)
                rows.append(row)
            queries.append([text for text, _ in drawn])
            labels.append([label for _, label in drawn])
        yield tokenize_examples(encoder, rows, queries, [_soft(some, settings.label_smoothing) for some in labels])


def _catalogue_product(
    catalogue: CatalogueWriter, num_queries: int, chooser: random.Random
) -> tuple[dict[str, str | None], list[tuple[str, str]]]:
    offered = catalogue.product()
    row = {"title": offered.title}
    if chooser.random() < 0.3:
        row |= {"brand": offered.item.attributes.get("brand"), "category": offered.department.name}
    wished = chooser.choices(list(_LABEL_SHARES), list(_LABEL_SHARES.values()), k=num_queries)
    drawn = [catalogue.query(offered, label) for label in wished]
    return row, [(query.text, label) for query, label in drawn]


def _soft(labels: Sequence[str], smoothing: float) -> np.ndarray:
    targets = np.full((len(labels), len(LABELS)), smoothing / len(LABELS), dtype=np.float32)
    targets[np.arange(len(labels)), [LABELS.index(label) for label in labels]] += 1 - smoothing
    return targets


def tokenize_examples(
    encoder: PromptEncoder,
    products: Sequence[dict[str, str | None]],
    queries: Sequence[Sequence[str]],
    targets: Sequence[np.ndarray],
) -> list[ProductExample]:
    """Tokenise products and their queries as scoring does; a query over the budget is left out."""
    columns = ("title", "brand", "category")
    table = pa.table({name: pa.array([row.get(name) for row in products], pa.string()) for name in columns})
    product_ids = encoder.encode_products(product_texts(table).to_pylist())
    flat = encoder.encode_queries(query_texts(pa.array([q for some in queries for q in some], pa.string())).to_pylist())
    examples, start = [], 0
    for ids, some, target in zip(product_ids, queries, targets, strict=True):
        own = flat[start : start + len(some)]
        start += len(some)
        kept = [i for i, query in enumerate(own) if query is not None]
        if kept:
            examples.append(ProductExample(ids, [own[i] for i in kept], target[kept]))
    return examples


def pretrain(
    model: LlamaForCausalLM,
    encoder: PromptEncoder,
    titles: Sequence[str],
    settings: PretrainingSettings,
    *,
    on_progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train in place on generated pairs. `on_progress` gets the pairs seen and a running loss, every 100 steps."""
    total = max(settings.num_pairs // settings.pairs_per_step, 1)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, total))
    shuffler = np.random.default_rng(settings.seed)
    running, step, pairs, started = math.nan, 0, 0, time.perf_counter()
    for pool in generated_examples(encoder, titles, settings):
        for batch in batches_by_length(pool, pairs_per_batch=settings.pairs_per_step, shuffler=shuffler):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16):
                logits = next_token_logits(model, encoder.guidelines_ids, batch)
            loss = label_loss(logits, batch.targets_n4, encoder.label_ids)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            running = loss.item() if math.isnan(running) else 0.98 * running + 0.02 * loss.item()
            step, pairs = step + 1, pairs + len(batch.targets_n4)
            if step % 25 == 0:
                rate = pairs / (time.perf_counter() - started)
                logger.info("step %d of %d: loss %.3f, %.0f pairs/s", step, total, running, rate)
                if on_progress:
                    on_progress(pairs, running)
            if step >= total:
                return


def learning_rate_factor(step: int, total: int) -> float:
    """Rise over a twentieth of the steps, then fall as a cosine to a twentieth."""
    warm_up = max(total // 20, 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min((step - warm_up) / max(total - warm_up, 1), 1)))


def save_model(model: PreTrainedModel, encoder: PromptEncoder, folder: Path) -> None:
    """Write weights, tokeniser and prompt: a folder that every engine can load."""
    model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    save_prompt_settings(encoder.prompt, folder)
