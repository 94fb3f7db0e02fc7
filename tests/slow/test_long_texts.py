"""A shard with more text than one Arrow array of short offsets holds (2 GiB); needs some 8 GB of memory."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from relevance.pairs.pair import CLEAN_SCHEMA
from relevance.prompting.fast_tokenizer import FastTokenizer
from relevance.prompting.prompts import PromptEncoder, load_prompt_settings
from relevance.scoring.shard_steps import know_nothing, prepare_shard
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow
SHIPPED = PROJECT / "relevance" / "small_model"
NUM_ROWS, CHUNKS = 60_000, 10


@pytest.mark.parametrize("long", ["product_text", "note"])
def test_a_product_with_many_pairs_and_a_long_text_is_ordered(long: str) -> None:
    """All its pairs are in one shard, each with the text; a carried column may be as long."""
    texts = dict.fromkeys(("product_text", "note"), "\n\nProduct: shoe")
    texts[long] += "x" * 37_000
    chunks = {
        name: pa.chunked_array([pa.array([text] * (NUM_ROWS // CHUNKS))] * CHUNKS) for name, text in texts.items()
    }
    ids = pa.array(map(str, range(NUM_ROWS)))
    rows = pa.table(
        {
            "query_id": ids,
            "product_id": pa.array(["p"] * NUM_ROWS),
            "query": pa.array(["shoe"] * NUM_ROWS),
            "product_text": chunks["product_text"],
            "error": pa.nulls(NUM_ROWS, pa.string()),
            "truth": pa.nulls(NUM_ROWS, pa.int8()),
            "note": chunks["note"],
        },
        schema=pa.schema([*CLEAN_SCHEMA, ("note", pa.string())]),
    )
    encoder = PromptEncoder(FastTokenizer(Path(SHIPPED)), load_prompt_settings(Path(SHIPPED)))
    block = prepare_shard(rows, encoder, know_nothing)
    assert sorted(block["query_id"].to_pylist()) == sorted(ids.to_pylist())
    assert block.schema.field("note").type == pa.string()
    assert {len(one.as_py()) for one in block["note"].chunk(block["note"].num_chunks - 1)[-3:]} == {len(texts["note"])}
