"""Fine-tune the small model on human labels, merge the adapter, round to 8 bits.

Reads a pre-trained `base` folder, `labelled` pairs and `weak` pairs (CSV); writes `output`/adapter, merged and
int8, each with tokeniser and prompt. With `num_folds=5` it judges by cross-validation instead, prints the table
and writes it to `output`/crossvalidation.json. A second run starts over.

    python -m jobs.relevance_finetune base=var/models/small_base output=var/models/small
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import torch
from pydantic import Field
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.launch import run_job
from cluster.settings import Settings
from relevance.crossvalidation import cross_validate, figures, figures_table
from relevance.finetuning import FinetuningSettings, TaughtPairs, finetune, num_steps
from relevance.pretraining import save_model
from relevance.prompts import PromptEncoder, load_prompt_settings
from relevance.quantization import quantize_folder
from relevance.training_pairs import read_labelled_pairs, read_weak_pairs


class FinetuneJob(Settings):
    """Which base, which pairs, what to make of them."""

    base: str
    labelled: str
    """CSV with the columns query, title, label."""
    weak: str
    """CSV with the columns query, title, is_substitute (yes or no, noisy)."""
    output: str
    unquantized: str | None = r"self_attn\.[qkv]_proj"
    """Linear layers to leave in half precision: rounding a sharp attention's scores moves labels."""
    num_folds: int = Field(default=0, ge=0)
    """0 trains on all pairs; 2 or more judges by that many folds, grouped by query."""
    fold_seed: int = 0
    finetuning: FinetuningSettings = FinetuningSettings()
    num_threads: int = Field(default=2, ge=1)


def main(job: FinetuneJob) -> None:
    """Train and write the model, or judge the way of training."""
    torch.set_num_threads(job.num_threads)
    base, output = Path(job.base), Path(job.output)
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(base), load_prompt_settings(base))
    labelled, weak = read_labelled_pairs(Path(job.labelled)), read_weak_pairs(Path(job.weak))
    output.mkdir(parents=True, exist_ok=True)

    def load_base() -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)

    if job.num_folds:
        folds = {"num_folds": job.num_folds, "seed": job.fold_seed}
        table = figures(labelled, cross_validate(load_base, encoder, labelled, weak, job.finetuning, **folds))
        (output / "crossvalidation.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        print(figures_table(table))
        return
    taught = TaughtPairs(labelled, weak, job.finetuning)
    steps = num_steps(taught, encoder, job.finetuning)
    epochs = (taught.epoch(encoder, epoch) for epoch in count())
    tuned = finetune(load_base(), encoder, epochs, job.finetuning, steps=steps)
    save_model(tuned, encoder, output / "adapter")
    save_model(tuned.merge_and_unload(), encoder, output / "merged")
    size = quantize_folder(output / "merged", output / "int8", unquantized=job.unquantized)
    print(f"{size} bytes in {output / 'int8'}")


if __name__ == "__main__":
    run_job(main, FinetuneJob, defaults=Path(__file__).with_suffix(".toml"))
