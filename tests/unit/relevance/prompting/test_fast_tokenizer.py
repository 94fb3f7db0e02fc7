"""Special tokens, in whichever file a model names them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from relevance.prompting.fast_tokenizer import FastTokenizer


def test_a_start_token_that_only_the_map_names_is_found(tiny_model: Path, tmp_path: Path) -> None:
    expected = FastTokenizer(tiny_model).bos_token_id
    assert expected is not None
    shutil.copy(tiny_model / "tokenizer.json", tmp_path / "tokenizer.json")
    config = json.loads((tiny_model / "tokenizer_config.json").read_text())
    token = config.pop("bos_token")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": token}}))
    assert FastTokenizer(tmp_path).bos_token_id == expected
    # A configuration that says that there is none has the last word.
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": None}))
    assert FastTokenizer(tmp_path).bos_token_id is None
