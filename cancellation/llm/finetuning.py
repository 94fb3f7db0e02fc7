"""LoRA on labelled events: the loss on the answer alone, in the very prompt that labelling and serving use."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, AutoTokenizer, DynamicCache
from transformers.cache_utils import DynamicLayer

from cancellation.decision.policy import Policy
from cancellation.events.examples import Example, refuse_twice
from cancellation.events.factors import VERDICTS
from cancellation.events.identity import content_number
from cancellation.llm.answer import write_answer
from cancellation.llm.prompt import PromptSettings, build_prompt, chat_text, prompt_digest, turn_end
from cancellation.model.learnt import write_learnt
from cluster.models.causal_model import load_causal_model, max_positions
from cluster.models.files import ModelFiles, ModelName, fetch_model, resolve_model
from cluster.progress import Progress
from cluster.provenance import code_digest, digest_of
from cluster.settings import Settings
from cluster.tracking import TrackedRun
from cluster.training.schedule import warmup_cosine
from cluster.training.session import TrainingSession, training_session
from cluster.training.train import STEP, STEPS, TrainerSettings, autocast, train

_CODE = ("cluster.training", "cancellation.llm")
"""What decides the weights, given settings and tokens: a run that other code has begun is not gone on with."""
_ADAPTER, _STATE, ORIGIN = "adapter", "state.pt", "training.json"
_WORTH_SHARING = 32
"""Tokens; a shorter common beginning is computed with each row."""
_BEGINNING = 400
"""Tokens by which prompts are sorted: a market's policy has more."""
_ALWAYS_WHOLE = ("gpt_neo", "mpt", "openai-gpt")
"""Architectures that count by a token's place in the cache and not by its position, or that keep no cache: behind a
shared beginning shorter rows have a gap."""
_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Fused where it can be. Written out, as other trainings here want it on a CPU, it keeps numbers by the square of the
tokens: with prompts of a thousand and more, four rows of SmolLM2 took 9 to 23 GB instead of 5 to 7, no sooner done."""


class LlmFinetuningSettings(Settings):
    """How an adapter is trained."""

    model: ModelName = "var/pretrained/smollm2-135m"
    """Base: folder, s3:// folder, models:/name@alias or a hub repository, with a chat template."""

    prompt: PromptSettings = PromptSettings()
    epochs: int = Field(default=2, ge=1)
    events_per_step: int = Field(default=16, ge=1)
    """Of all workers together."""

    micro_batch: int = Field(default=4, ge=1)
    """Events that go through the model at once; memory grows with it. What their prompts begin with, the policy, goes
    through it once."""

    learning_rate: float = Field(default=5e-4, gt=0)
    """At its peak."""

    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    rank: int = Field(default=16, ge=1)
    """Of the adapter's matrices."""

    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the adapter's inputs; drawing it takes a third of a step on a CPU."""

    verdict_weight: float = Field(default=4.0, ge=1)
    """What a token of the verdict counts beside one of factors and reasoning: one in ten tokens is the verdict's."""

    max_tokens: int = Field(default=2048, ge=256)
    """Longer examples are left out, and counted; those too that the model has no positions for."""

    steps_per_checkpoint: int = Field(default=20, ge=1)
    bf16: bool = True
    """Matrix products in bfloat16 where the device has them, weights in float32."""

    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class CompletionExample:
    """A prompt with its answer, as tokens; `weights` are 0 over the prompt."""

    ids: np.ndarray
    weights: np.ndarray

    @property
    def starts(self) -> int:
        """The first token that is learnt."""
        return int((self.weights > 0).argmax()) or len(self.ids) - 1  # of a weight of 0 nothing is learnt


@dataclass(frozen=True)
class FinetunedLlm:
    """An adapter and how it came about."""

    folder: Path
    losses: list[float]
    """Of every step: mean over the answers' tokens."""
    num_examples: int
    num_too_long: int
    num_without_class: int = 0
    """Left out: labels that their market's policy does not know."""


def finetune(
    examples: Sequence[Example],
    policy: Policy,
    settings: LlmFinetuningSettings,
    trainer: TrainerSettings,
    run: TrackedRun | None,
    *,
    output: Path,
    cache_dir: str,
    registry_uri: str | None = None,
) -> FinetunedLlm:
    """Train an adapter; write it, its origin and what it learnt from to `output`; a run that was broken off goes on.

    Each example is asked about with the classes of its market's policy, as in labelling.

    Raises:
        ValueError: If no example fits, the policy knows the label of none, or an event has two labels.
        RuntimeError: If training failed.
    """
    refuse_twice(examples, "labelled events", agreeing=False)
    base = resolve_model(settings.model, registry_uri=registry_uri)
    base_dir = fetch_model(base, cache_dir=cache_dir, weights=False)
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    most = min(settings.max_tokens, max_positions(AutoConfig.from_pretrained(base_dir)))
    known = [one for one in examples if VERDICTS.index(one.label) < policy.market(one.event.market).classes]
    if not known:
        raise ValueError(
            f"{len(examples)} examples: expected labels that the policy knows in their markets, found none; correct "
            "the labels, or the policy's classes"
        )
    encoded = [
        encode_example(one, tokenizer, settings, classes=policy.market(one.event.market).classes) for one in known
    ]
    fits = [len(one.ids) <= most for one in encoded]
    kept = list(compress(encoded, fits))
    if not kept:
        raise ValueError(
            f"finetuning.max_tokens={settings.max_tokens}: none of {len(known)} examples fits into {most} tokens; give "
            "more, or lower prompt.max_case_characters"
        )
    origin = {
        "base": base.version,
        "base_digest": base.digest,
        "prompt": prompt_digest(settings.prompt),
        "finetuning": settings.model_dump(mode="json"),
        "training_data": digest_of([[one.ids.tolist(), one.weights.tolist()] for one in kept]),
        "num_examples": len(kept),
    }
    config = {"base": base, "cache_dir": cache_dir, "examples": kept, "settings": settings}
    name = f"cancellation-llm-{digest_of([origin, code_digest(*_CODE)])}"
    outcome = train(train_worker, config, trainer, name=name, curves=run.address if run else None)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(outcome.fetch_checkpoint(Path(folder)) / _ADAPTER, output, dirs_exist_ok=True)
    write_learnt(output, np.array([content_number(one.event) for one in compress(known, fits)], np.uint64))
    (output / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    without_class = len(examples) - len(known)
    return FinetunedLlm(output, outcome.returned, len(kept), len(encoded) - len(kept), without_class)


def encode_example(
    example: Example, tokenizer: Any, settings: LlmFinetuningSettings, *, classes: int
) -> CompletionExample:
    """Write prompt and answer as tokens; the answer ends with the turn, as the chat template ends one.

    Of an example whose factors nobody looked for only the verdict is learnt: the rest weighs nothing.
    """
    prompt = build_prompt(example.event, settings.prompt, classes=classes)
    asked = tokenizer(chat_text(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    answer = write_answer(prompt.form, example.label, example.factors)
    before, opening, inside = answer.partition("<verdict>")  # reasoning may come first
    word, closing, after = inside.partition("</verdict>")
    reasoned, verdict, rest = (
        tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, opening + word, closing + after)
    )
    rest = [*rest, *turn_end(tokenizer)]
    other = 0.0 if example.factors is None else 1.0
    weights = [0.0] * len(asked) + [other] * len(reasoned)
    weights += [settings.verdict_weight] * len(verdict) + [other] * len(rest)
    scaled = np.array(weights, np.float32) * example.counts
    return CompletionExample(np.array([*asked, *reasoned, *verdict, *rest], np.int64), scaled)


def train_worker(config: dict[str, Any]) -> list[float]:
    """Train on one worker; return the losses of all steps."""
    session, settings = training_session(), config["settings"]
    examples: Sequence[CompletionExample] = config["examples"]
    trainer = _Trainer(config["base"], config["cache_dir"], settings, session)
    session.resume(trainer.load)
    per_epoch = math.ceil(len(examples) / settings.events_per_step)
    total = per_epoch * settings.epochs
    epochs, steps = divmod(trainer.step, per_epoch)
    done = len(examples) * epochs + settings.events_per_step * steps
    progress = Progress(len(examples) * settings.epochs, "events", done=done)
    while trainer.step < total:
        rows, started = _rows_of_step(trainer.step, len(examples), settings), time.monotonic()
        mine = [examples[row] for row in rows[session.rank :: session.world_size]]
        loss = trainer.learn(mine, total, progress)
        session.stepped(trainer.step, total, len(rows))
        rate = sum(len(examples[row].ids) for row in rows) / (time.monotonic() - started)
        at_rest = trainer.step == total or trainer.step % settings.steps_per_checkpoint == 0
        with tempfile.TemporaryDirectory() as folder:
            if at_rest and session.rank == 0:
                trainer.save(Path(folder))
            kept = Path(folder) if at_rest and session.rank == 0 else None
            report = {STEP: trainer.step, STEPS: total, "loss": loss, "tokens_per_second": rate}
            session.report(report, checkpoint=kept)
    return trainer.losses


def _rows_of_step(step: int, count: int, settings: LlmFinetuningSettings) -> np.ndarray:
    """Choose a step's examples: every epoch is an order of its own, the same after a restart."""
    per_epoch = math.ceil(count / settings.events_per_step)
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([settings.seed, epoch]).permutation(count)
    return order[place * settings.events_per_step : (place + 1) * settings.events_per_step]


class _Trainer:
    """A base with its adapter, the optimiser, and how far they are."""

    def __init__(
        self, base: ModelFiles, cache_dir: str, settings: LlmFinetuningSettings, session: TrainingSession
    ) -> None:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(settings.seed)
        folder = fetch_model(base, cache_dir=cache_dir)
        model = load_causal_model(folder, dtype=torch.float32)
        lora = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        self.model: Any = get_peft_model(model, lora).to(session.device).train()
        layers = DynamicCache(config=self.model.config).layers
        # A layer of a window has forgotten the beginning's beginning, which rows behind it may still attend to.
        whole = all(type(layer) is DynamicLayer for layer in layers)
        self._can_share = whole and model.config.model_type not in _ALWAYS_WHOLE
        self._weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self._optimizer = torch.optim.AdamW(self._weights, lr=settings.learning_rate, weight_decay=0.0)
        self._settings, self._session = settings, session
        self.step, self.losses = 0, list[float]()

    def learn(self, examples: Sequence[CompletionExample], total: int, progress: Progress) -> float:
        """Take one step on this worker's share of it; give the mean loss over all workers.

        The first worker says how far all are: a step of long prompts takes minutes on a CPU.
        """
        settings = self._settings
        factor = warmup_cosine(self.step, total, warmup_fraction=settings.warmup_fraction, floor=0.05)
        for group in self._optimizer.param_groups:
            group["lr"] = factor * settings.learning_rate
        sums = torch.tensor([0.0, sum(float(one.weights[1:].sum()) for one in examples)])
        self._optimizer.zero_grad(set_to_none=False)
        for batch in _batches(examples, settings.micro_batch):
            loss = self._loss(batch)
            loss.backward()
            sums[0] += float(loss.detach())
            if self._session.rank == 0:
                progress.add(len(batch) * self._session.world_size)
        self._share(sums)
        for weight in self._weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            self._share(weight.grad)
            weight.grad /= max(float(sums[1]), 1e-6)
        nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self.step += 1
        self.losses.append(float(sums[0] / sums[1].clamp(min=1e-6)))
        return self.losses[-1]

    def _share(self, tensor: torch.Tensor) -> None:
        if self._session.world_size > 1:
            dist.all_reduce(tensor)

    def _loss(self, batch: Sequence[CompletionExample]) -> torch.Tensor:
        """Sum the weighed cross-entropy of the answers' tokens.

        Rows end together, so that answers lie below one another and nothing but them needs logits: of a vocabulary of
        49,000 those of a prompt's thousand tokens are 200 MB, several times over.
        """
        length = max(len(one.ids) for one in batch)
        kept = max(len(one.ids) - one.starts for one in batch)
        ids = np.zeros((len(batch), length), np.int64)
        mask, weights = np.zeros_like(ids), np.zeros((len(batch), kept), np.float32)
        for row, one in enumerate(batch):
            ids[row, length - len(one.ids) :], mask[row, length - len(one.ids) :] = one.ids, 1
            weights[row, one.starts - len(one.ids) :] = one.weights[one.starts :]
        device = self._session.device
        tokens, seen = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
        with autocast(device, bf16=self._settings.bf16), sdpa_kernel(_ATTENTION):
            logits = self._logits(tokens, seen, kept=kept + 1, shared=self._shared(batch))[:, :-1]
        targets = tokens[:, length - kept :].flatten()
        losses = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets, reduction="none")
        return (losses * torch.from_numpy(weights).to(device).flatten()).sum()

    def _shared(self, batch: Sequence[CompletionExample]) -> int:
        """Tokens that all rows begin with and need no logits of; 0 where they are not worth sharing, or cannot be."""
        shortest = min(one.starts for one in batch) - 1
        beginnings = np.stack([one.ids[:shortest] for one in batch])
        alike = int((beginnings == beginnings[0]).all(axis=0).cumprod().sum())
        return alike if len(batch) > 1 and alike >= _WORTH_SHARING and self._can_share else 0

    def _logits(self, tokens: torch.Tensor, mask: torch.Tensor, *, kept: int, shared: int) -> torch.Tensor:
        """Give the last `kept` tokens' logits; rows share the keys and values of what all of them begin with."""
        rows = len(tokens)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        if not shared:
            given = {"attention_mask": mask, "position_ids": places, "use_cache": False}
            return self.model(tokens, logits_to_keep=kept, **given).logits
        first = int(mask[0].argmax())
        begun = self.model(tokens[:1, first : first + shared], use_cache=True, logits_to_keep=1).past_key_values
        cache = DynamicCache()
        for number, layer in enumerate(begun.layers):
            cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), number)
        # Behind the beginning, which stands in the cache: of shorter rows first what fills them up, then their own.
        left = places[:, shared:] >= shared
        seen = torch.cat([mask.new_ones(rows, shared), left.to(mask.dtype)], dim=1)
        given = {"attention_mask": seen, "position_ids": places[:, shared:], "past_key_values": cache}
        return self.model(tokens[:, shared:], use_cache=True, logits_to_keep=kept, **given).logits

    def save(self, folder: Path) -> None:
        """Write the adapter, and what going on from here needs."""
        self.model.save_pretrained(folder / _ADAPTER)
        state = {"step": self.step, "losses": self.losses, "optimizer": self._optimizer.state_dict()}
        torch.save(state, folder / _STATE)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(self.model, load_file(folder / _ADAPTER / "adapter_model.safetensors"))
        state = torch.load(folder / _STATE, weights_only=True, map_location="cpu")
        self.step, self.losses = state["step"], state["losses"]
        self._optimizer.load_state_dict(state["optimizer"])


def _batches(examples: Sequence[CompletionExample], size: int) -> Iterator[Sequence[CompletionExample]]:
    """Cut a step into batches whose prompts begin alike, of about the same length.

    One that held prompts of two markets would share what all markets' begin with, a quarter of a policy.
    """
    ordered = sorted(examples, key=lambda one: (one.ids[:_BEGINNING].tolist(), len(one.ids)))
    for _, group in groupby(ordered, key=lambda one: one.ids[:_BEGINNING].tolist()):
        alike = list(group)
        for start in range(0, len(alike), size):
            yield alike[start : start + size]
