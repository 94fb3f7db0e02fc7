"""A base in shares (FSDP): handed out by the first of two workers on a CPU, in the precisions that training uses."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from cluster.models.files import resolve_model
from cluster.training.train import has_bf16
from relevance.prompting.prompts import PromptEncoder, load_prompt_settings
from relevance.training.examples import ProductExample, tokenize_texts
from relevance.training.loop import LabelTraining, TrainingSettings, TrainingTask
from relevance.weights.adapters import LoraSettings
from tests.builders.tiny_models import save_tiny_model

pytestmark = pytest.mark.timeout(900)
BF16 = has_bf16(torch.device("cpu"))


@dataclass
class Worker:
    """A training session without Ray; reports go nowhere."""

    rank: int
    world_size: int

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def report(self, metrics: dict[str, Any], *, checkpoint: Path | None = None) -> None:
        pass

    def stepped(self, step: int, steps: int, examples: int) -> None:
        pass

    def resume(self, read: Callable[[Path], None]) -> None:
        pass

    def dataset(self, name: str) -> Any:
        raise NotImplementedError


class FourPairs:
    def epoch(self, encoder: PromptEncoder, number: int) -> list[ProductExample]:
        products = ["Product: red clock", "Product: steel bottle"]
        queries = [["red clock", "blue hose"], ["bottle", "chair"]]
        return tokenize_texts(encoder, products, queries, [np.eye(4, dtype=np.float32)[:2]] * 2)


def bytes_of(name: str) -> int:
    """Of this process's memory: VmRSS now, VmHWM at most since it was last set back."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024


def run_worker(rank: int, folder: Path, bf16: bool, lora: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2, timeout=timedelta(minutes=10)
    )
    settings = TrainingSettings(pairs_per_step=4, parallel="fsdp", bf16=bf16, gradient_checkpointing=True)

    def training_of(name: str) -> LabelTraining:
        task = TrainingTask(
            model=resolve_model(str(folder / name)),
            cache_dir="",
            prompt=load_prompt_settings(folder / name),
            source=FourPairs(),
            steps=2,
            settings=settings,
            lora=LoraSettings(rank=4) if lora else None,
        )
        return LabelTraining(task, Worker(rank, 2))

    if (folder / "small").exists():  # libraries that are loaded on the way are no share of anything
        training_of("small")
    Path("/proc/self/clear_refs").write_text("5")
    before = bytes_of("VmRSS")
    training = training_of("base")
    grown = bytes_of("VmHWM") - before
    weights = dict(training._module.named_parameters())
    kinds = {"adapter" if "lora_" in name else "base": str(weight.dtype) for name, weight in weights.items()}
    own = sum(weight.to_local().numel() * weight.element_size() for weight in weights.values())
    losses = training.run()["losses"]
    found = {"grown": grown, "own": own, "kinds": kinds, "losses": losses}
    (folder / f"worker{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def train_in_shares(folder: Path, *, bf16: bool, lora: bool = True) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=run_worker, args=(rank, folder, bf16, lora)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    return [json.loads((folder / f"worker{rank}.json").read_text()) for rank in range(2)]


def save_base(folder: Path, *, hidden: int, tied: bool) -> int:
    """Write a random Llama of 12 layers beside a tokeniser; bytes of its weights in float32."""
    save_tiny_model(folder, weights=False)
    sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": 12}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 1024}
    config = AutoConfig.for_model("llama", vocab_size=1024, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes)
    config.tie_word_embeddings = tied
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return sum(weight.numel() * 4 for weight in model.parameters())


@pytest.mark.slow
def test_the_second_worker_never_holds_the_whole_base(tmp_path: Path) -> None:
    whole = save_base(tmp_path / "base", hidden=512, tied=False)
    save_base(tmp_path / "small", hidden=64, tied=False)
    first, second = train_in_shares(tmp_path, bf16=False)
    assert whole > 150 * 2**20
    assert second["own"] < 0.52 * whole
    assert second["grown"] < 0.75 * whole, f"{second['grown']:,} of {whole:,} bytes"
    assert first["losses"] == second["losses"]


@pytest.mark.skipif(not BF16, reason="this processor has no instructions for bfloat16")
def test_a_base_in_bfloat16_learns_beside_an_adapter_in_float32(tmp_path: Path) -> None:
    save_base(tmp_path / "base", hidden=64, tied=True)
    first, second = train_in_shares(tmp_path, bf16=True)
    assert first["kinds"] == second["kinds"] == {"base": "torch.bfloat16", "adapter": "torch.float32"}
    assert first["losses"] == second["losses"]
    assert np.isfinite(first["losses"]).all()


def test_a_model_with_tied_embeddings_is_trained_whole(tmp_path: Path) -> None:
    save_base(tmp_path / "base", hidden=64, tied=True)
    first, second = train_in_shares(tmp_path, bf16=False, lora=False)
    assert first["losses"] == second["losses"]
    assert first["losses"][1] < first["losses"][0]
