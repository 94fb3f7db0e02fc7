"""A pre-trained encoder's vocabulary cut to the pieces that a marketplace's texts can need.

Of XLM-R's 250,000 pieces most spell languages that none of the markets writes. Kept are the pieces that given texts use
most and, for words never seen, the likeliest pieces of the same scripts; every character of those scripts; and the 256
bytes, into which whatever else is written falls apart instead of into one unknown token.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import numpy as np
from tokenizers import Tokenizer

_BYTES = dict.fromkeys(f"<0x{byte:02X}>" for byte in range(256))
_SCRIPTS = ((0x20, 0x24F), (0x300, 0x36F), (0xE00, 0xE7F), (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x20A0, 0x20BF),
            (0x3000, 0x303F), (0x4E00, 0x9FFF), (0xFF00, 0xFFEF))  # fmt: skip
_META = "▁"


def prune_tokenizer(tokenizer: Tokenizer, texts: Iterable[str], *, size: int) -> tuple[Tokenizer, np.ndarray]:
    """Cut a Unigram tokeniser to about `size` pieces; give it and, for each new id, the old one (-1: none had it).

    Raises:
        ValueError: If the tokeniser is of another kind.
    """
    state = json.loads(tokenizer.to_str())
    if state["model"]["type"] != "Unigram":
        found = state["model"]["type"]
        raise ValueError(f"tokeniser: expected Unigram pieces, found {found}; use it whole, without prune_to")
    pieces: list[list] = state["model"]["vocab"]
    frame = {token["id"]: token["content"] for token in state["added_tokens"]}
    unknown = state["model"]["unk_id"]
    frame |= {number: text for number, (text, _) in enumerate(pieces) if number == unknown or text in _BYTES}
    new_bytes = [byte for byte in _BYTES if byte not in frame.values()]
    counts: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        counts.update(encoding.ids)
    spelled = [number for number, (text, _) in enumerate(pieces) if number not in frame and _is_spelled(text)]
    letters = [number for number in spelled if len(pieces[number][0].removeprefix(_META)) <= 1]
    used = [number for number, _ in counts.most_common() if number < len(pieces) and number not in frame]
    likely = sorted(spelled, key=lambda number: -pieces[number][1])
    kept = set(list(dict.fromkeys([*letters, *used, *likely]))[: max(size, len(letters))])
    low = min(score for _, score in pieces) - 10.0
    inner = [number for number in range(len(pieces)) if number in kept or number in frame]
    added = sorted(number for number in frame if number >= len(pieces))
    state["model"]["vocab"] = [*(pieces[number] for number in inner), *([byte, low] for byte in new_bytes)]
    state["model"]["byte_fallback"] = True
    state["model"]["unk_id"] = None if unknown is None else inner.index(unknown)
    old = np.array([*inner, *[-1] * len(new_bytes), *added])
    places = {number: place for place, number in enumerate(old.tolist()) if number >= 0}
    for token in state["added_tokens"]:
        token["id"] = places[token["id"]]
    return Tokenizer.from_str(json.dumps(state)), old


def _is_spelled(text: str) -> bool:
    return all(character == _META or any(a <= ord(character) <= b for a, b in _SCRIPTS) for character in text)
