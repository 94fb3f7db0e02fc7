"""The small model's tokeniser: pieces of words in nine languages, folded as people on phones type.

Case, Latin accents and stretched letters are folded away, since half of the buyers leave them out; Thai vowel
and tone signs stay. Pieces are short, so that a phrase never seen is still made of pieces that were: Thai and
Chinese have no spaces, and without a limit a simulated sentence would become one token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from cancellation.text.timeline import SPECIAL_TOKENS

PAD, CLS, UNKNOWN, MASK = "[PAD]", "[CLS]", "[UNK]", "[MASK]"
FRAME_TOKENS = (PAD, CLS, UNKNOWN, MASK)
"""Ids 0 to 3 of the small tokeniser."""

PAD_TOKENS, START_TOKENS = (PAD, "<pad>"), (CLS, "<s>", "<bos>")
UNKNOWN_TOKENS, MASK_TOKENS = (UNKNOWN, "<unk>", MASK, "<mask>"), (MASK, "<mask>")
"""What a token is called, by family of tokenisers."""

END = "[END]"
"""Stands at the end of each text where a tokeniser has it: that of an encoder which was trained so
(`model.text_encoder.load_encoder`)."""

TOKENIZER_FILE = "tokenizer.json"

_LATIN_ACCENTS = "[\u0300-\u036f]"
_PIECES = (
    r"[\u0E00-\u0E7F]+"  # Thai
    r"|[\u3400-\u9FFF]"  # Chinese: one character is one piece at least
    r"|[^\s\d\p{P}\p{S}\u0E00-\u0E7F\u3400-\u9FFF]+"
    r"|\d{1,3}|[\p{P}\p{S}]"
)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, max_piece_length: int = 10) -> Tokenizer:
    """Train byte-pair pieces on cleaned texts; characters never seen fall back to one unknown token."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFD(),
            normalizers.Replace(Regex(_LATIN_ACCENTS), ""),
            normalizers.Lowercase(),
            normalizers.Replace("đ", "d"),
            normalizers.Replace(Regex(r"(\p{L})(?=\1\1)"), ""),  # "plsss" is "plss"
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*FRAME_TOKENS, *SPECIAL_TOKENS],
        limit_alphabet=vocab_size // 3,
        max_token_length=max_piece_length,
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_of(tokenizer: Tokenizer, names: Sequence[str]) -> int:
    """Id of a token that families of tokenisers name differently.

    Raises:
        ValueError: If the tokeniser has none of the names.
    """
    ids = (tokenizer.token_to_id(name) for name in names)
    found = next((token for token in ids if token is not None), None)
    if found is None:
        raise ValueError(f"tokeniser: expected one of the tokens {', '.join(names)}, found none; use an encoder's own")
    return found


def rename_tokens(tokenizer: Tokenizer, names: Mapping[str, str]) -> Tokenizer:
    """Give a copy that calls tokens otherwise, each under its old id; another token of a new name takes the old one.

    It frames no text by itself, and cuts and pads none.
    """
    swapped = {**{new: old for old, new in names.items()}, **names}
    state = json.loads(tokenizer.to_str())
    pieces = state["model"]["vocab"]
    if isinstance(pieces, dict):
        state["model"]["vocab"] = {swapped.get(piece, piece): number for piece, number in pieces.items()}
    else:
        state["model"]["vocab"] = [[swapped.get(piece, piece), score] for piece, score in pieces]
    if unknown := state["model"].get("unk_token"):
        state["model"]["unk_token"] = swapped.get(unknown, unknown)
    for token in state["added_tokens"]:
        token["content"] = swapped.get(token["content"], token["content"])
    return Tokenizer.from_str(json.dumps(state | dict.fromkeys(("post_processor", "truncation", "padding"))))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load `tokenizer.json` of a model folder.

    Raises:
        ValueError: If there is none, or a timeline's token is missing in it.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise ValueError(
            f"model folder {folder}: expected {TOKENIZER_FILE}, found none; train or export the model anew"
        )
    tokenizer = Tokenizer.from_file(str(path))
    missing = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
    if missing:
        raise ValueError(f"{path}: expected the timeline's tokens, found none of {', '.join(missing)}; train it anew")
    return tokenizer
