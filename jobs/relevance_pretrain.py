"""Train the small model that ships from nothing: tokeniser, then label tokens of generated pairs.

Reads a CSV of public queries and titles (`texts`), leaving out every row that shares a query or title with
`held_out`; writes a model folder with tokeniser and prompt to `output`. Safe to resubmit: a run that was broken off
goes on from its last checkpoint.

    python -m jobs.relevance_pretrain texts=../shared/data/esci/substitute_binary.csv \
        held_out=../shared/data/esci/labelled_pairs.csv output=var/models/small_base \
        meanings=var/pretrained/multilingual-e5-small   # `make pretrained` brings it
"""

from __future__ import annotations

from pathlib import Path

from cluster.launch import run_job
from cluster.models.files import ModelName, resolve_model
from cluster.models.sentence_encoder import SentenceEncoder
from cluster.places import CachePath, InputUrl, OutputPath
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.tracking import TrackingSettings, tracked_run
from cluster.training.estimate import estimate_training
from cluster.training.train import TrainerSettings
from relevance.finetuning.pairs import read_labelled_pairs, read_weak_pairs
from relevance.prompting.prompts import PromptEncoder, PromptSettings
from relevance.small_model_recipe.pretraining import ModelShape, PretrainingSettings, new_model, pretrain, save_model
from relevance.small_model_recipe.tokenization import tokenizer_texts, train_small_tokenizer


class PretrainJob(Settings):
    """Which texts, what model, how long."""

    texts: InputUrl
    """CSV with the columns query, title, is_substitute; the answers are not looked at."""

    held_out: InputUrl
    """CSV of the labelled pairs that the model will be judged on."""

    output: OutputPath
    """Folder for the model."""

    meanings: ModelName | None = None
    """Encoder of sentence vectors from which half of the embeddings' dimensions start, so that words of one meaning are
    alike from the first step on: folder, s3:// folder, registry name or hub id. None: they start at random."""

    cache_dir: CachePath = "~/.cache/marketplace-llm"
    """Where remote models, and what an encoder has said, are kept on a machine."""

    shape: ModelShape = ModelShape()
    prompt: PromptSettings = PromptSettings(guidelines="brief", product_token_budget=64, query_token_budget=192)
    pretraining: PretrainingSettings = PretrainingSettings()
    trainer: TrainerSettings = TrainerSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: PretrainJob) -> None:
    """Train tokeniser and model."""
    seen = read_weak_pairs(job.texts).without(read_labelled_pairs(job.held_out))
    texts = [*seen.titles, *seen.queries]
    tokenizer = train_small_tokenizer(tokenizer_texts(texts), vocab_size=job.shape.vocab_size, prompt=job.prompt)
    encoder = PromptEncoder(tokenizer, job.prompt)
    output = Path(job.output)
    start = output.with_name(f"{output.name}_start")
    known = None
    if job.meanings:
        known = SentenceEncoder(resolve_model(job.meanings, registry_uri=job.tracking.uri), cache_dir=job.cache_dir)
    model = new_model(job.shape, encoder, seed=job.pretraining.training.seed, meanings=known)
    save_model(model, encoder, start)
    with ray_session(job.session), tracked_run("relevance_pretrain", job, job.tracking) as run:
        losses = pretrain(start, encoder, texts, job.pretraining, job.trainer, run, output=output)
        print(f"model  {job.output}, {len(losses)} steps, loss {losses[-1]:.3f}\nrun    {run.where}")


if __name__ == "__main__":
    run_job(main, PretrainJob, defaults=Path(__file__).with_suffix(".toml"), estimate=estimate_training)
