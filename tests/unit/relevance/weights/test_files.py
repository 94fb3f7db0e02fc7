"""Folders of models and adapters that are not what their names say: refused by one sentence, before weights load."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster import storage
from cluster.models.files import resolve_model
from relevance.engines.label_model import LabelModel
from tests.conftest import PROJECT
from tests.servers.hub import HubServer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 16060556376\n"
LAYER = "model.layers.0.self_attn.q_proj"


def label_model(base: Path | str, adapter: Path | None = None) -> LabelModel:
    return LabelModel(resolve_model(str(base)), resolve_model(str(adapter)) if adapter else None, "none", "")


def save_base(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = {f"{LAYER}.weight": np.zeros((8, 6), np.float32)}
    save_file(weights, folder / "model-00001-of-00002.safetensors")
    save_file({"model.embed_tokens.weight": np.zeros((50, 6), np.float32)}, folder / "model-00002-of-00002.safetensors")
    names = {f"{LAYER}.weight": "model-00001-of-00002.safetensors"}
    names["model.embed_tokens.weight"] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def save_adapter(folder: Path, *, layer: str = LAYER, inputs: int = 6, vocabulary: int | None = None) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    stored = f"base_model.model.{layer}"
    weights = {f"{stored}.lora_A.weight": np.zeros((2, inputs)), f"{stored}.lora_B.weight": np.zeros((8, 2))}
    if vocabulary:
        weights["base_model.model.model.embed_tokens.weight"] = np.zeros((vocabulary, 6))
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def leave_adapter_files(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def lose_a_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def cut_a_shard(folder: Path) -> None:
    path = folder / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def leave_a_pointer(folder: Path) -> None:
    (folder / "model-00001-of-00002.safetensors").write_text(POINTER)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            leave_adapter_files,
            r"holds adapter_config.json beside its own weights.*delete them if the adapter is merged",
        ),
        (lose_a_shard, r"model base: model-00002-of-00002.safetensors is missing \(1 of 2 shards.*: copy it there"),
        (cut_a_shard, r"base/model-00001-of-00002.safetensors cannot be read \(\d+ of \d+ bytes.*: copy it again"),
        (leave_a_pointer, r"base/model-00001-of-00002.safetensors is a Git-LFS pointer.*git lfs pull"),
    ],
)
def test_a_model_that_is_not_what_it_seems(tmp_path: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    base = save_base(tmp_path / "base")
    label_model(base).check()
    spoil(base)
    with pytest.raises(ValueError, match=sentence) as refused:
        label_model(base).check()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (leave_adapter_files, r"model base@\w+: holds adapter_config.json beside its own weights"),
        (lose_a_shard, r"model base@\w+: model-00002-of-00002.safetensors is missing"),
        (cut_a_shard, r"base@\w+/model-00001-of-00002.safetensors cannot be read \(\d+ of \d+ bytes"),
        (leave_a_pointer, r"base@\w+/model-00001-of-00002.safetensors is a Git-LFS pointer"),
    ],
)
def test_a_model_in_a_bucket_is_looked_at_there(
    tmp_path: Path, bucket: str, spoil: Callable[[Path], None], sentence: str
) -> None:
    base, adapter = save_base(tmp_path / "base"), save_adapter(tmp_path / "adapter", inputs=7)
    storage.send_folder(base, f"{bucket}/whole/base")
    with pytest.raises(ValueError, match=r"adapter adapter belongs to another base than base@\w+: .* expects 7 inputs"):
        label_model(f"{bucket}/whole/base", adapter).check()
    spoil(base)
    storage.send_folder(base, f"{bucket}/spoilt/base")
    with pytest.raises(ValueError, match=sentence):
        label_model(f"{bucket}/spoilt/base").check()


_CHECK = """
import sys
from tests.unit.relevance.weights.test_files import label_model
for name in sys.argv[1:]:
    try:
        label_model(name).check()
        print("fine")
    except ValueError as error:
        print(error)
"""


def test_a_model_on_the_hub_is_looked_at_there(tmp_path: Path) -> None:
    large, cut = save_base(tmp_path / "large"), save_base(tmp_path / "cut")
    save_file({"more": np.zeros((1000, 1000), np.float32)}, large / "more.safetensors")
    cut_a_shard(cut)
    hub = HubServer({"team/large": large, "team/cut": cut, "team/gated": large}, gated="team/gated")
    # huggingface_hub reads its environment once, when it is imported.
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", _CHECK, "team/large", "team/cut", "team/gated"]
    try:
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    finally:
        hub.stop()
    fine, spoilt, gated = said.splitlines()
    assert fine == "fine"
    assert re.match(r"team/cut@\w+/model-00001-of-00002.safetensors cannot be read \(\d+ of \d+ bytes", spoilt)
    assert gated.startswith("model team/gated: its authors ask for consent")
    assert hub.num_bytes < 500_000, "of four million bytes of weights the headers are read"


def test_an_adapter_that_fits_is_taken(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    label_model(base, save_adapter(tmp_path / "adapter", vocabulary=50)).check()


@pytest.mark.parametrize(
    ("adapter", "sentence"),
    [
        ({"inputs": 7}, r"adapter adapter belongs to another base than base: .*q_proj it expects 7 inputs, found 6"),
        ({"layer": "transformer.h.0.attn.c_attn"}, r"belongs to another base than base: .* found no such layer"),
        (
            {"vocabulary": 51},
            r"adapter adapter: its adapter_model.safetensors has a vocabulary of 51 entries, the base",
        ),
    ],
)
def test_an_adapter_for_another_base(tmp_path: Path, adapter: dict[str, object], sentence: str) -> None:
    base = save_base(tmp_path / "base")
    with pytest.raises(ValueError, match=sentence):
        label_model(base, save_adapter(tmp_path / "adapter", **adapter)).check()


def test_a_pointer_in_place_of_an_adapter(tmp_path: Path) -> None:
    base, adapter = save_base(tmp_path / "base"), save_adapter(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").write_text(POINTER)
    with pytest.raises(ValueError, match=r"adapter/adapter_model.safetensors is a Git-LFS pointer"):
        label_model(base, adapter).check()
