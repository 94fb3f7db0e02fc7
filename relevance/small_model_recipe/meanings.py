"""What the small model's pieces mean, from an encoder that knows language: its embeddings start from there."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

from cluster.models.sentence_encoder import SentenceEncoder

_LETTERS = 2
"""A piece of fewer letters or digits means nothing by itself."""


def piece_meanings(tokenizer: PreTrainedTokenizerBase, encoder: SentenceEncoder, *, width: int) -> np.ndarray:
    """Give each piece the vector of its text, on the principal axes of all of them; float32 (pieces, at most width).

    Axes are brought halfway to one scale, since the first few of such encoders tell kinds of text apart and not
    meanings, and all together to a mean square of 1. A piece that means nothing by itself has a row of NaN.
    """
    texts = [tokenizer.decode([number]) for number in range(len(tokenizer))]
    wanted = [row for row, text in enumerate(texts) if text.isalnum() and len(text) >= _LETTERS]
    vectors = encoder([texts[row] for row in wanted], prefix="query: ")
    centred = vectors - vectors.mean(axis=0)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    found = centred @ axes[:width].T / np.sqrt(lengths[:width])
    meanings = np.full((len(texts), found.shape[1]), np.nan, dtype=np.float32)
    meanings[wanted] = found / np.sqrt((found**2).mean())
    return meanings
