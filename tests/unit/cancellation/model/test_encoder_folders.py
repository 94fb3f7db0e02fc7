"""Encoder folders as people really have them: read as they were trained, or refused by a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from cancellation.model.text_encoder import load_encoder
from cluster.models.files import resolve_model
from cluster.models.sentence_encoder import SentenceEncoder
from tests.builders.fusion_models import save_encoder

WEIGHTS, CONFIG, TOKENIZER, SETTINGS = "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"
MODULES = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]


def embeddings(folder: Path) -> torch.Tensor:
    encoder, _ = load_encoder(str(folder), cache_dir="unused")
    return encoder.eval()(input_ids=torch.tensor([[4, 7, 11]])).last_hidden_state.detach()


def say(folder: Path, **values: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | values))


def rename_weights(folder: Path, renamed: Callable[[str], str | None]) -> None:
    tensors = {renamed(name): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file({name: tensor for name, tensor in tensors.items() if name}, folder / WEIGHTS, metadata={"format": "pt"})


def lose_a_layer(folder: Path) -> None:
    rename_weights(folder, lambda name: None if ".layer.1." in name else name)


def hide_all(folder: Path) -> None:
    rename_weights(folder, lambda name: f"inner.{name}")


def lose_a_shard(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    sorted(folder.glob("*.safetensors"))[1].unlink()


def leave_a_pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def leave_an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")


def be_an_adapter(folder: Path) -> None:
    leave_an_adapter(folder)
    (folder / WEIGHTS).unlink(), (folder / CONFIG).unlink()


def take_a_larger_vocabulary(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder, vocab_size=600)
    AutoModel.from_config(config).save_pretrained(folder)


def leave_a_cased_vocabulary(folder: Path) -> None:
    pieces = json.loads((folder / TOKENIZER).read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(piece.capitalize() if piece[0] != "[" else piece for piece in pieces))
    (folder / TOKENIZER).unlink(), (folder / SETTINGS).unlink()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lose_a_layer, r"its safetensors lack encoder\.layer\.1\.\S+ \(and 15 more\), so it would answer with other"),
        (hide_all, r"its safetensors lack embeddings\.\S+ \(and 36 more\)"),
        (lambda folder: say(folder, num_hidden_layers=4), r"its safetensors lack encoder\.layer\.2\."),
        (lambda folder: say(folder, num_hidden_layers=1), r"no place for encoder\.layer\.1\.\S+ .*num_hidden_layers"),
        (lambda folder: shortened(folder, as_classifier), r"no place for bert\.encoder\.layer\.1\.\S+"),
        (lambda folder: say(folder, intermediate_size=128), r"disagree on the shape of encoder\.layer\.0\."),
        (lambda folder: say(folder, model_type="of_its_own"), r"architecture 'of_its_own' is not part of transformers"),
        (lambda folder: (folder / CONFIG).write_text("{"), r"its config\.json is no JSON object: copy it again"),
        (lambda folder: (folder / CONFIG).unlink(), r"with config\.json, found none in .*: give another model"),
        (lose_a_shard, r"model-00002-of-\S+ is missing \(1 of \d shards .*: copy it there"),
        (leave_a_pointer, r"is a Git-LFS pointer and not the file itself"),
        (leave_an_adapter, r"holds adapter_config\.json and adapter_model\.safetensors beside its own weights"),
        (be_an_adapter, r"holds an adapter and not the model that it changes: give that one, or the two merged"),
        (take_a_larger_vocabulary, r"pieces up to number 699, its weights embeddings of 600: it is another model's"),
        (leave_a_cased_vocabulary, r"pieces have capitals, and nothing says .* say do_lower_case in tokenizer_config"),
    ],
)
def test_what_would_be_read_otherwise_than_it_was_trained_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    save_encoder(tmp_path / "bert", "bert")
    spoil(tmp_path / "bert")
    with pytest.raises(ValueError, match=sentence) as refused:
        load_encoder(str(tmp_path / "bert"), cache_dir="unused")
    assert "\n" not in str(refused.value)


def test_frame_tokens_that_nothing_names_are_not_made_up(tmp_path: Path) -> None:
    save_encoder(tmp_path / "eurobert", "eurobert")
    (tmp_path / "eurobert" / SETTINGS).unlink()
    with pytest.raises(ValueError, match=r"expected tokenizer_config\.json, which names padding, start and end"):
        load_encoder(str(tmp_path / "eurobert"), cache_dir="unused")


def shortened(folder: Path, shape: Callable[[Path], None]) -> None:
    shape(folder)
    say(folder, num_hidden_layers=1)


def as_classifier(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder, num_labels=1)
    model = AutoModelForSequenceClassification.from_config(config)
    model.base_model.load_state_dict(AutoModel.from_pretrained(folder).state_dict(), strict=False)
    model.save_pretrained(folder)


def as_older_versions_wrote(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS) | {"embeddings.position_ids": torch.arange(64)[None]}
    save_file({name: t for name, t in tensors.items() if "pooler" not in name}, folder / WEIGHTS, {"format": "pt"})


def as_shards(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="20KB")


def with_modules(folder: Path, modules: list[tuple[str, str]] = MODULES, **pooling: object) -> None:
    named = [{"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (path, kind) in
             enumerate(modules)]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(named))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / CONFIG).write_text(json.dumps({"pooling_mode_mean_tokens": True} | pooling))


def in_a_folder_below(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("copy"), folder / "0_Transformer")
    with_modules(folder, [("0_Transformer", "Transformer"), *MODULES[1:]])


@pytest.mark.parametrize("shape", [as_classifier, as_older_versions_wrote, as_shards, with_modules, in_a_folder_below])
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_folders_of_many_shapes_hold_the_same_encoder(tmp_path: Path, kind: str, shape: Callable[[Path], None]) -> None:
    expected = embeddings(Path(save_encoder(tmp_path / kind, kind)))
    shape(tmp_path / kind)
    assert torch.equal(embeddings(tmp_path / kind), expected)


def test_a_tokeniser_without_its_settings_is_read_as_it_is(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "xlm-roberta", "xlm-roberta")
    _, expected = load_encoder(folder, cache_dir="unused")
    (tmp_path / "xlm-roberta" / SETTINGS).unlink()
    _, found = load_encoder(folder, cache_dir="unused")
    assert found.to_str() == expected.to_str()


def test_sentence_vectors_are_refused_where_they_are_not_the_mean(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    save_encoder(folder, "bert")

    def vectors() -> np.ndarray:
        encode = SentenceEncoder(resolve_model(str(folder)), cache_dir=str(tmp_path / "cache"))
        return encode(["order", "cancelled"], prefix="")

    expected = vectors()
    in_a_folder_below(folder)
    assert np.array_equal(vectors(), expected)
    pooling = folder / "1_Pooling" / CONFIG
    for said, found in (
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "pooling_mode_cls_token"),
        ({"pooling_mode": "cls"}, "pooling_mode=cls"),
    ):
        pooling.write_text(json.dumps(said))
        with pytest.raises(ValueError, match=rf"vectors are made by {found}, and here .* choose one with mean pooling"):
            vectors()
    pooling.write_text("{}")
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 3, "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules, dense]))
    with pytest.raises(ValueError, match=r"vectors are made by Dense, and here"):
        vectors()
    shutil.rmtree(folder)
    save_encoder(folder, "bert")
    lose_a_layer(folder)
    with pytest.raises(ValueError, match=r"its safetensors lack encoder\.layer\.1\."):
        vectors()
