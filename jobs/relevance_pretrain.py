"""Train the small model that ships from nothing: tokeniser, then label tokens of generated pairs.

Reads a CSV of public queries and titles (`texts`), leaving out every row that shares a query or title with
`held_out`; writes a model folder with tokeniser and prompt to `output`. A second run starts over.

    python -m jobs.relevance_pretrain texts=../shared/data/esci/substitute_binary.csv \
        held_out=../shared/data/esci/labelled_pairs.csv output=var/models/small_base
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field

from cluster.launch import run_job
from cluster.settings import Settings
from relevance.pretraining import ModelShape, PretrainingSettings, new_model, pretrain, save_model
from relevance.prompts import PromptEncoder, PromptSettings
from relevance.tokenization import tokenizer_texts, train_small_tokenizer
from relevance.training_pairs import read_labelled_pairs, read_weak_pairs


class PretrainJob(Settings):
    """Which texts, what model, how long."""

    texts: str
    """CSV with the columns query, title, is_substitute; the answers are not looked at."""

    held_out: str
    """CSV of the labelled pairs that the model will be judged on."""

    output: str
    """Folder for the model."""

    shape: ModelShape = ModelShape()
    prompt: PromptSettings = PromptSettings(guidelines="brief", product_token_budget=64, query_token_budget=40)
    pretraining: PretrainingSettings = PretrainingSettings()
    num_threads: int = Field(default=2, ge=1)


def main(job: PretrainJob) -> None:
    """Train tokeniser and model."""
    torch.set_num_threads(job.num_threads)
    seen = read_weak_pairs(Path(job.texts)).without(read_labelled_pairs(Path(job.held_out)))
    texts = [*seen.titles, *seen.queries]
    tokenizer = train_small_tokenizer(tokenizer_texts(texts), vocab_size=job.shape.vocab_size, prompt=job.prompt)
    encoder = PromptEncoder(tokenizer, job.prompt)
    model = new_model(job.shape, encoder, seed=job.pretraining.seed)
    output = Path(job.output)
    pretrain(model, encoder, texts, job.pretraining, on_progress=lambda *_: save_model(model, encoder, output))
    save_model(model, encoder, output)


if __name__ == "__main__":
    run_job(main, PretrainJob, defaults=Path(__file__).with_suffix(".toml"))
