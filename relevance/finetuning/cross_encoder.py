"""A cross-encoder: a pre-trained encoder that reads query and title together, and says how they belong together.

Source: Nogueira and Cho, Passage Re-ranking with BERT (2019); the four labels as in Reddy et al., Shopping Queries
Dataset (2022).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, get_linear_schedule_with_warmup

from cluster.models.encoder_folder import encoder_folder, load_text_encoder
from cluster.models.files import ModelFiles, fetch_model
from cluster.models.whole_weights import read_config
from cluster.progress import Progress
from cluster.provenance import code_digest, digest_of
from cluster.settings import Settings
from cluster.training.train import autocast
from relevance.finetuning.pairs import LabelledTexts, WeakPairs
from relevance.labels import LABELS

_SORTED_STEPS = 8
"""Of so many steps' pairs those of like length go together: less is padded."""
_WARMUP, _BETAS, _WEIGHT_DECAY, _CLIP = 0.1, (0.9, 0.99), 0.01, 1.0
_PAIRS_READ_AT_ONCE = 32
_LAST, _LEARNT = 0.1, 0.98
"""In so many of the steps, at the end, the loss is to be so much of what knowing how often each answer comes gives."""


class CrossEncoderSettings(Settings):
    """How an encoder is taught to read query and title together."""

    epochs: int = Field(default=0, ge=0)
    """Passes over the pairs of `teacher_pairs` and the weak pairs; 0: the encoder compares vectors alone."""

    learning_rate: float = Field(default=5e-5, gt=0)
    """Of the encoder, at its highest; at twice that one of four trainings came to nothing."""

    head_learning_rate: float = Field(default=1e-3, gt=0)
    """Of what is new behind it."""

    pairs_per_step: int = Field(default=16, ge=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    weak_weight: float = Field(default=0.7, ge=0)
    """How much a weak pair's answer counts beside a label."""

    max_tokens: int = Field(default=72, ge=8)
    """Of query and title together; the longer of the two is cut."""

    bf16: bool = True
    """Where the processor can: half the memory traffic, a little less exact."""


class _Network(nn.Module):
    """The mean over an encoder's tokens, and from it the four labels and the answer that weak pairs have."""

    def __init__(self, encoder: nn.Module, width: int, *, bf16: bool) -> None:
        super().__init__()
        self.encoder, self.head, self._scale = encoder, nn.Linear(width, len(LABELS) + 1), width**0.5
        self._bf16 = bf16
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, *, attention_mask: torch.Tensor, **tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give logits of the labels, float (n, 4), and of the answer, (n,)."""
        with autocast(attention_mask.device, bf16=self._bf16):
            states = self.encoder(attention_mask=attention_mask, **tokens).last_hidden_state
        mean = (states.float() * attention_mask[..., None]).sum(1)  # its length is taken away below
        logits = self.head(functional.normalize(mean, dim=1) * self._scale)
        return logits[:, :-1], logits[:, -1]


class CrossEncoder:
    """Label probabilities of an encoder that learnt from labelled pairs, and from weak ones whether it is a substitute.

    Its input embeddings stay as they are: few pairs say nothing about most pieces.
    """

    def __init__(
        self,
        files: ModelFiles,
        labelled: Sequence[LabelledTexts],
        weak: WeakPairs,
        settings: CrossEncoderSettings,
        *,
        seed: int,
        cache_dir: str,
    ) -> None:
        """Teach it, or read what the same encoder and pairs once came to from the cache.

        Raises:
            ValueError: If the encoder cannot be read whole.
            RuntimeError: If it learnt nothing.
        """
        folder = encoder_folder(fetch_model(files, cache_dir=cache_dir))
        try:
            encoder = load_text_encoder(folder, read_config(folder))
        except ValueError as error:
            raise ValueError(f"encoder {files.version}: {error}") from None
        embeddings = encoder.get_input_embeddings().weight.requires_grad_(False)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._network = _Network(encoder, encoder.config.hidden_size, bf16=settings.bf16)
        self._settings = settings
        self._known: dict[tuple[str, str], np.ndarray] = {}
        learnt = [name for name, value in self._network.named_parameters() if value is not embeddings]
        made_of = [
            files.digest,
            settings.model_dump(mode="json"),
            seed,
            [[list(some.queries), list(some.titles), some.labels.tolist()] for some in labelled],
            weak.digest,
            code_digest("relevance.finetuning"),
        ]
        path = Path(cache_dir).expanduser() / "cross_encoders" / f"{digest_of(made_of)}.safetensors"
        if not path.exists():
            self._teach(_Rows(labelled, weak, settings), seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{random.getrandbits(64):x}")
            state = self._network.state_dict()
            save_file({name: state[name].contiguous() for name in learnt}, temporary)
            temporary.replace(path)
        self._network.load_state_dict(load_file(path), strict=False)
        self._network.eval()

    def probabilities(self, queries: Sequence[str], titles: Sequence[str]) -> np.ndarray:
        """Say how probable each label is, float (n, 4); what was asked once is remembered."""
        new = list(dict.fromkeys(pair for pair in zip(queries, titles, strict=True) if pair not in self._known))
        new.sort(key=_length)
        progress = Progress(len(new), "pairs read by the teacher")
        for start in range(0, len(new), _PAIRS_READ_AT_ONCE):
            some = new[start : start + _PAIRS_READ_AT_ONCE]
            with torch.inference_mode():
                logits, _ = self._network(**self._tokens(some))
            self._known |= zip(some, torch.softmax(logits, dim=1).double().numpy(), strict=True)
            progress.add(len(some))
        return np.array([self._known[pair] for pair in zip(queries, titles, strict=True)]).reshape(-1, len(LABELS))

    def _teach(self, rows: _Rows, seed: int) -> None:
        settings, network = self._settings, self._network
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(device).train()
        body = [value for value in network.encoder.parameters() if value.requires_grad]
        groups = [
            {"params": body, "lr": settings.learning_rate},
            {"params": list(network.head.parameters()), "lr": settings.head_learning_rate},
        ]
        optimizer = torch.optim.AdamW(groups, betas=_BETAS, weight_decay=_WEIGHT_DECAY)
        steps = settings.epochs * -(-len(rows.pairs) // settings.pairs_per_step)
        schedule = get_linear_schedule_with_warmup(optimizer, int(_WARMUP * steps), steps)
        progress, losses = Progress(steps, "steps of the teacher's cross-encoder"), list[float]()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for epoch in range(settings.epochs):
                for batch in rows.batches(settings.pairs_per_step, seed=f"{seed} {epoch}"):
                    tokens = {name: value.to(device) for name, value in self._tokens(rows.pairs_of(batch)).items()}
                    loss = rows.loss(batch, *network(**tokens))
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
                    optimizer.step()
                    schedule.step()
                    losses.append(loss.item())
                    progress.add()
        reached, by_shares = float(np.mean(losses[-max(1, int(_LAST * steps)) :])), rows.loss_by_shares()
        if not reached < _LEARNT * by_shares:
            raise RuntimeError(
                f"the teacher's cross-encoder learnt nothing of {len(rows.pairs):,} pairs: its loss is {reached:.3f}, "
                f"and {by_shares:.3f} by the labels' shares alone; lower its learning_rate "
                "(finetuning.teaching.cross_encoder), or raise its epochs"
            )
        network.cpu()  # from where it is sent to whoever trains the pupil

    def _tokens(self, pairs: Sequence[tuple[str, str]]) -> dict[str, torch.Tensor]:
        queries, titles = zip(*pairs, strict=True)
        limit = self._settings.max_tokens
        return dict(
            self._tokenizer(
                list(queries), list(titles), return_tensors="pt", padding=True, truncation=True, max_length=limit
            )
        )


class _Rows:
    """All pairs that teach: each with a label's shares or with an answer."""

    def __init__(self, labelled: Sequence[LabelledTexts], weak: WeakPairs, settings: CrossEncoderSettings) -> None:
        self.pairs = [
            *(pair for some in labelled for pair in zip(some.queries, some.titles, strict=True)),
            *zip(weak.queries, weak.titles, strict=True),
        ]
        labels = np.concatenate([some.labels for some in labelled])
        shares = np.full((len(labels), len(LABELS)), settings.label_smoothing / len(LABELS), np.float32)
        shares[np.arange(len(labels)), labels] += 1 - settings.label_smoothing
        self._shares = torch.from_numpy(shares)
        self._answers = torch.from_numpy(np.asarray(weak.is_substitute, np.float32))
        self._weak_weight = settings.weak_weight

    def batches(self, size: int, *, seed: str) -> list[np.ndarray]:
        """Draw one pass: the numbers of the pairs of each step."""
        draw = random.Random(seed)
        order = list(range(len(self.pairs)))
        draw.shuffle(order)
        batches: list[np.ndarray] = []
        for start in range(0, len(order), size * _SORTED_STEPS):
            some = sorted(order[start : start + size * _SORTED_STEPS], key=lambda row: _length(self.pairs[row]))
            cut = [np.array(some[first : first + size]) for first in range(0, len(some), size)]
            draw.shuffle(cut)
            batches += cut
        return batches

    def pairs_of(self, batch: np.ndarray) -> list[tuple[str, str]]:
        return [self.pairs[row] for row in batch]

    def loss(self, batch: np.ndarray, labels: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """The cross-entropies' sum over the pairs, each of its own kind, divided by how many there are."""
        has_label = batch < len(self._shares)
        shares = self._shares[batch[has_label]].to(labels.device)
        answered = self._answers[batch[~has_label] - len(self._shares)].to(labels.device)
        labelled, weak = (torch.from_numpy(np.flatnonzero(some)).to(labels.device) for some in (has_label, ~has_label))
        said = functional.cross_entropy(labels[labelled], shares, reduction="sum")
        guessed = functional.binary_cross_entropy_with_logits(answers[weak], answered, reduction="sum")
        return (said + self._weak_weight * guessed) / len(batch)

    def loss_by_shares(self) -> float:
        """The mean loss of who knows nothing of a pair but how often each label and answer comes."""
        labels, yes = self._shares.mean(0), self._answers.mean() if len(self._answers) else torch.tensor(0.0)
        answers = torch.stack([yes, 1 - yes])
        spread, of_answers = (torch.special.entr(shares).sum().item() for shares in (labels, answers))
        weak = self._weak_weight * len(self._answers)
        return (len(self._shares) * spread + weak * of_answers) / len(self.pairs)


def _length(pair: tuple[str, str]) -> int:
    return len(pair[0]) + len(pair[1])
