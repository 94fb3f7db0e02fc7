"""Texts as vectors of what they mean, by any encoder that was trained for it, such as multilingual-e5-small."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cluster.models.files import ModelFiles, fetch_model
from cluster.provenance import digest_of

_MAX_TOKENS = 256
_BATCH = 32


class SentenceEncoder:
    """A Hugging Face encoder as unit vectors, the mean over its tokens; what it has seen stays on disk.

    Source: Wang et al., Multilingual E5 Text Embeddings (2024), whose models want "query: " or "passage: " in front.
    """

    def __init__(self, files: ModelFiles, *, cache_dir: str) -> None:
        """Load it, pinned by `resolve_model`.

        Raises:
            ValueError: If it cannot be read whole, or its vectors are said to be another thing than the mean.
        """
        from transformers import AutoTokenizer

        from cluster.models.encoder_folder import encoder_folder, load_text_encoder, require_mean
        from cluster.models.whole_weights import read_config

        whole = fetch_model(files, cache_dir=cache_dir)
        require_mean(whole, files.version)
        folder = encoder_folder(whole)
        try:
            self._model = load_text_encoder(folder, read_config(folder))
        except ValueError as error:
            raise ValueError(f"encoder {files.version}: {error}") from None
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._digest = files.digest
        self._cache = Path(cache_dir).expanduser() / "sentence_vectors"

    def __call__(self, texts: Sequence[str], *, prefix: str) -> np.ndarray:
        """Embed texts, what the encoder wants before each in front; float32 (n, d)."""
        if len(texts) == 1:
            return self._embed([prefix + texts[0]])
        path = self._cache / f"{digest_of([self._digest, prefix, list(texts)])}.npy"
        if not path.exists():
            self._cache.mkdir(parents=True, exist_ok=True)
            by_length = np.array(sorted(range(len(texts)), key=lambda place: len(texts[place])), dtype=int)
            parts = [by_length[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
            found = np.concatenate([self._embed([prefix + texts[place] for place in part]) for part in parts])
            vectors = np.empty_like(found)
            vectors[by_length] = found
            temporary = path.with_suffix(f".{os.getpid()}.npy")
            np.save(temporary, vectors)
            temporary.replace(path)
        return np.load(path)

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        batch = self._tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, max_length=_MAX_TOKENS)
        with torch.inference_mode():
            states = self._model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()
