"""Put real queries and titles together anew: pairs for a large model to label and a smaller one to learn from.

Reads CSV files with the columns query and title (`texts`), leaving out every row that shares a query or title with the
labelled pairs in `spared`; writes one parquet file of pairs, the same for the same settings. Safe to resubmit.

    python -m jobs.relevance_recombine
    python -m jobs.relevance_score jobs/relevance_score.smollm2.toml input=var/distilled/pairs.parquet \
        output=var/distilled/scores
    python -m jobs.relevance_finetune distilled=var/distilled/pairs.parquet distilled_scores=var/distilled/scores \
        distilled_by=relevance/smollm2_adapter finetuning.distilled_epochs=2
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.launch import run_job
from cluster.places import InputUrl, OutputUrl
from cluster.settings import Settings
from cluster.storage import write_bytes
from relevance.finetuning.pairs import keep_unseen, read_labelled_pairs, read_texts
from relevance.finetuning.recombined import RecombinationSettings, recombine


class RecombineJob(Settings):
    """Which texts, and how they are put together."""

    texts: tuple[InputUrl, ...]
    """CSV files with the columns query and title. Other columns are not looked at but `market`: see `markets`."""

    markets: tuple[str, ...] = ()
    """Of files with a column `market`, the rows of these alone; none: all rows."""

    spared: InputUrl
    """CSV of labelled pairs that a model will be judged on."""

    output: OutputUrl
    """Path or s3:// location of the parquet file."""

    recombination: RecombinationSettings = RecombinationSettings()


def main(job: RecombineJob) -> None:
    """Draw and write the pairs."""
    texts = [one for path in job.texts for one in read_texts(path, job.markets)]
    queries, titles = [query for query, _ in texts], [title for _, title in texts]
    spared = read_labelled_pairs(job.spared)
    keep = keep_unseen(queries, titles, spared)
    if not len(keep):
        raise ValueError(f"texts: none of {len(texts)} rows is left without those that {job.spared} shares: give more")
    drawn = recombine([queries[i] for i in keep], [titles[i] for i in keep], job.recombination)
    # A query that was changed by a word may have become one of the spared.
    pairs = drawn.take(keep_unseen(drawn["query"].to_pylist(), drawn["title"].to_pylist(), spared))
    buffer = pa.BufferOutputStream()
    pq.write_table(pairs, buffer, compression="zstd")
    write_bytes(job.output, buffer.getvalue())
    print(f"{len(pairs):,} pairs of {len(set(pairs['product_id'].to_pylist())):,} titles in {job.output}")


if __name__ == "__main__":
    run_job(main, RecombineJob, defaults=Path(__file__).with_suffix(".toml"))
