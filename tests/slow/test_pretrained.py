"""What the packages of the `pretrained` extra hold, unpacked: text goes on, meaning crosses languages."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from cluster.models.files import resolve_model
from cluster.pretrained.packages import PACKAGED, unpack_model


def _installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(_installed(model.package) for model in PACKAGED.values()), reason="`make pretrained` was not run"
    ),
]

CANCEL = (
    "please cancel my order, I no longer need it",
    "tolong batalkan pesanan saya, sudah tidak butuh",
    "tolong batalkan pesanan saya, dah tak perlu",
    "ช่วยยกเลิกออเดอร์ให้หน่อย ไม่ต้องการแล้ว",
    "huỷ đơn giúp mình, mình không cần nữa",
    "pakicancel po ng order ko, hindi ko na kailangan",
    "請取消訂單，我不需要了",
    "cancela mi pedido por favor, ya no lo necesito",
    "cancele meu pedido por favor, não preciso mais",
)
NO_STOCK = (
    "the item is out of stock, sorry",
    "barangnya habis kak, maaf",
    "barang dah habis stok, maaf ya",
    "สินค้าหมดค่ะ ขอโทษด้วย",
    "hết hàng rồi ạ, xin lỗi bạn",
    "wala na pong stock, pasensya na",
    "沒貨了，不好意思",
    "ya no hay existencias, disculpa",
    "o produto esgotou, desculpe",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretrained")


def test_the_language_model_goes_on_as_it_should(folder: Path) -> None:
    model_dir = unpack_model("smollm2-135m", folder)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    assert "Paris" in tokenizer.decode(model.generate(**prompt, max_new_tokens=4, do_sample=False)[0])
    labels = (" exact", " substitute", " complement", " irrelevant")
    assert [len(tokenizer(label).input_ids) for label in labels] == [1, 1, 1, 1]


def test_one_meaning_lies_nearer_in_nine_languages_than_another(folder: Path) -> None:
    model_dir = unpack_model("multilingual-e5-small", folder)
    tokenizer, model = AutoTokenizer.from_pretrained(model_dir), AutoModel.from_pretrained(model_dir)
    batch = tokenizer([f"query: {text}" for text in CANCEL + NO_STOCK], return_tensors="pt", padding=True)
    with torch.no_grad():
        states = model(**batch).last_hidden_state.float()
    mask = batch["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    likeness = vectors @ vectors.T
    number = torch.arange(18)
    likeness[number[:, None] % 9 == number % 9] = -1  # of one language all texts lie near each other
    same = number < 9
    nearest = same[likeness.argmax(1)]
    assert (nearest == same).float().mean() >= 0.9


def test_origin_and_licence_stand_beside_and_a_second_run_changes_nothing(folder: Path) -> None:
    model_dir = unpack_model("smollm2-135m", folder)
    assert json.loads((model_dir / "origin.json").read_text())["license"] == "Apache-2.0"
    written = (model_dir / "model.safetensors").stat().st_mtime_ns
    assert unpack_model("smollm2-135m", folder) == model_dir
    assert (model_dir / "model.safetensors").stat().st_mtime_ns == written
    assert resolve_model(str(model_dir)).version.startswith("smollm2-135m@")
