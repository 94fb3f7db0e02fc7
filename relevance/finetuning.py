"""LoRA on human labels: cross-entropy on the label token alone, in the prompt of scoring.

A plain loop in one process. Small sets of labels are stretched: an overlap teacher, fitted on the same labels,
gives its opinion of further pairs of real queries and titles that nobody labelled.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field
from transformers import PreTrainedModel

from cluster.settings import Settings
from relevance.labels import LABELS
from relevance.matching import split_words
from relevance.overlap import OverlapFeatures, OverlapTeacher
from relevance.packing import (
    PackedBatch,
    ProductExample,
    batches_by_length,
    label_loss,
    next_token_logits,
    pack_batch,
)
from relevance.pretraining import (
    PretrainingSettings,
    generated_examples,
    learning_rate_factor,
    tokenize_examples,
)
from relevance.prompts import PromptEncoder, product_texts, query_texts
from relevance.training_pairs import LabelledPairs, WeakPairs

logger = logging.getLogger(__name__)

_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

_STRANGER = np.array([0.1, 0.1, 0.2, 1.0])
"""Odds of each label for a query drawn at random, against a query for which a shop had shown the product."""


class FinetuningSettings(Settings):
    """LoRA on the label token."""

    rank: int = Field(default=16, ge=1)
    """Of the low-rank update of every linear layer."""

    alpha: float = Field(default=32.0, gt=0)
    """Scale of the update; divided by the rank."""

    dropout: float = Field(default=0.05, ge=0, lt=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    epochs: int = Field(default=2, ge=1)
    """Passes over the labelled pairs; taught pairs are drawn anew in each."""

    pairs_per_step: int = Field(default=96, ge=1)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    teacher_share: float = Field(default=0.5, ge=0, le=1)
    """How much of a labelled pair's target is the teacher's opinion: the labels are noisy, so is a small model."""

    taught_queries_per_title: int = Field(default=2, ge=0)
    """Further queries per title and epoch that only the teacher has labelled."""

    catalogue_products: int = Field(default=300, ge=0)
    """Generated products per epoch, four queries each with their true labels: what was learnt there is kept."""

    label_repeats: int = Field(default=2, ge=1)
    """How often a labelled pair comes in each epoch."""

    bf16: bool = True
    seed: int = 0


class TaughtPairs:
    """Epochs of examples: labelled pairs, weakly labelled pairs and recombined ones with the teacher's opinion."""

    def __init__(self, labelled: LabelledPairs, weak: WeakPairs, settings: FinetuningSettings) -> None:
        self._settings = settings
        self._titles = [*labelled.titles, *weak.titles]
        self._queries = [*labelled.queries, *weak.queries]
        self._labelled = len(labelled.titles)
        self._features = OverlapFeatures(self._titles)
        self.teacher = OverlapTeacher(seed=settings.seed)
        own = self._features(labelled.queries, labelled.titles)
        posterior = self.teacher.fit(
            own, labelled.labels, self._features(weak.queries, weak.titles), weak.is_substitute
        )
        said = np.eye(len(LABELS))[labelled.labels]
        said = said * (1 - settings.label_smoothing) + settings.label_smoothing / len(LABELS)
        share = settings.teacher_share
        mixed = (1 - share) * said + share * self.teacher.probabilities(own)
        self._targets = np.concatenate([mixed, posterior]).astype(np.float32)
        self._words = [split_words(query) for query in self._queries]
        self._pool = [word for words in self._words for word in words]

    def probabilities(self, queries: Sequence[str], titles: Sequence[str]) -> np.ndarray:
        """The teacher's opinion of pairs, (n, 4)."""
        return self.teacher.probabilities(self._features(queries, titles))

    def epoch(self, encoder: PromptEncoder, number: int) -> list[ProductExample]:
        """Tokenise one epoch: every title with its own query and some taught ones."""
        draw = random.Random(f"{self._settings.seed} {number}")
        drawn = [
            [self._draw_query(row, draw) for _ in range(self._settings.taught_queries_per_title)]
            for row in range(len(self._titles))
        ]
        queries = [[query, *(text for text, _ in some)] for query, some in zip(self._queries, drawn, strict=True)]
        flat = [text for some in drawn for text, _ in some]
        titles = [title for title, some in zip(self._titles, drawn, strict=True) for _ in some]
        taught = self.probabilities(flat, titles) if flat else np.zeros((0, len(LABELS)))
        strange = np.array([is_stranger for some in drawn for _, is_stranger in some], dtype=bool)
        taught[strange] *= _STRANGER
        taught /= taught.sum(axis=1, keepdims=True)
        targets, start = [], 0
        for row, own in enumerate(queries):
            end = start + len(own) - 1
            targets.append(np.vstack([self._targets[row : row + 1], taught[start:end]]).astype(np.float32))
            start = end
        repeats = self._settings.label_repeats - 1
        for row in range(self._labelled):
            queries[row] = queries[row] + [self._queries[row]] * repeats
            targets[row] = np.vstack([targets[row], *[self._targets[row : row + 1]] * repeats])
        examples = tokenize_examples(encoder, [{"title": title} for title in self._titles], queries, targets)
        return examples + self._catalogue_examples(encoder, number)

    def _catalogue_examples(self, encoder: PromptEncoder, number: int) -> list[ProductExample]:
        if not self._settings.catalogue_products:
            return []
        drawing = PretrainingSettings(
            products_per_pool=self._settings.catalogue_products,
            queries_per_product=4,
            matching_fraction=0,
            seed=self._settings.seed + 1000 * (number + 1),
        )
        return next(generated_examples(encoder, self._titles, drawing))

    def _draw_query(self, row: int, draw: random.Random) -> tuple[str, bool]:
        """Change the title's own query by a word or two, cut one out of the title, or take a stranger's (True)."""
        kind = draw.random()
        words = list(self._words[row]) or ["item"]
        if kind < 0.2:
            return draw.choice(self._queries), True
        if kind < 0.45:
            words = split_words(self._titles[row]) or words
            length = min(draw.randint(1, 5), len(words))
            start = draw.randrange(len(words) - length + 1)
            words = words[start : start + length] if draw.random() < 0.5 else draw.sample(words, length)
        for _ in range(draw.choice((0, 1, 1, 2)) if kind < 0.45 else draw.choice((1, 1, 2))):
            at, change = draw.randrange(len(words)), draw.random()
            if change < 0.3 and len(words) > 1:
                del words[at]
            elif change < 0.65:
                words[at] = draw.choice(self._pool)
            else:
                words.insert(at, draw.choice(self._pool))
        return " ".join(words), False


def finetune(
    model: PreTrainedModel,
    encoder: PromptEncoder,
    epochs: Iterator[list[ProductExample]],
    settings: FinetuningSettings,
    *,
    steps: int,
) -> PeftModel:
    """Train an adapter for `steps` steps; the base model's weights stay as they are."""
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=_TARGETS
    )
    tuned = get_peft_model(model, config)
    trained = [weight for weight in tuned.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    tuned.train()
    for step, batch in zip(range(steps), _batches(epochs, settings), strict=False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16):
            logits = next_token_logits(tuned.base_model.model, encoder.guidelines_ids, batch)
        loss = label_loss(logits, batch.targets_n4, encoder.label_ids)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            logger.info("step %d of %d: loss %.3f", step, steps, loss.item())
    return tuned.eval()


def num_steps(taught: TaughtPairs, encoder: PromptEncoder, settings: FinetuningSettings) -> int:
    """Steps that make `settings.epochs` passes."""
    pairs = sum(len(example.queries) for example in taught.epoch(encoder, 0))
    return max(pairs * settings.epochs // settings.pairs_per_step, 1)


def _batches(epochs: Iterator[list[ProductExample]], settings: FinetuningSettings) -> Iterator[PackedBatch]:
    shuffler = np.random.default_rng(settings.seed)
    for examples in epochs:
        yield from batches_by_length(examples, pairs_per_batch=settings.pairs_per_step, shuffler=shuffler)


@torch.no_grad()
def predict(
    model: PreTrainedModel, encoder: PromptEncoder, queries: Sequence[str], titles: Sequence[str]
) -> np.ndarray:
    """Probabilities of the four labels among each other, float64 (n, 4), in float32 arithmetic."""
    products = encoder.encode_products(product_texts(pa.table({"title": pa.array(titles, pa.string())})).to_pylist())
    query_ids = encoder.encode_queries(query_texts(pa.array(queries, pa.string())).to_pylist())
    blank = np.zeros((1, len(LABELS)), dtype=np.float32)
    order = sorted(range(len(queries)), key=lambda i: len(products[i]) + len(query_ids[i]))
    result = np.zeros((len(queries), len(LABELS)))
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        batch = pack_batch([ProductExample(products[i], [query_ids[i]], blank) for i in rows])
        logits = next_token_logits(model, encoder.guidelines_ids, batch)[:, list(encoder.label_ids)]
        result[rows] = logits.float().softmax(-1).numpy()
    return result
