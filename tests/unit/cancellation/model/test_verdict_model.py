from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import load_file, save_file

from cancellation.events.event import parse_event
from cancellation.model.exporting import EXPORT_FILE, export_model
from cancellation.model.fusion import load_fusion_model, save_fusion_model
from cancellation.model.spec import SPEC_FILE, WEIGHTS_FILE
from cancellation.model.torch_network import load_torch_network
from cancellation.model.verdict_model import (
    CALIBRATION_FILE,
    ONNX_FILE,
    ONNX_WEIGHTS_FILE,
    TRAINED_FOLDER,
    VerdictModel,
    load_verdict_model,
    read_identity,
)
from cancellation.text.encoding import EncodedEvent
from cancellation.training.data import EncodedSet, encode_examples
from cancellation.training.loop import LoopSettings, Trainer
from cancellation.training.run import calibration_batches
from tests.builders.cancellation_events import event_mappings, sample_event
from tests.builders.fusion_models import examples, logits, small_model, small_set, small_tokenizer

SHIPPED = Path(__file__).resolve().parents[4] / "cancellation" / "small_model"


def taught_model(variant: str):
    """A little training, so that scores are apart."""
    trainer = Trainer(small_model(variant), LoopSettings(learning_rate=0.005, bf16=False, average_decay=0.0))
    batch = small_set().batch(np.arange(64))
    for _ in range(25):
        trainer.step(batch, torch.device("cpu"), 1000)
    return trainer.averaged_model()


@pytest.fixture(scope="module", params=["attention", "features", "text"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = taught_model(request.param)
    export_model(model, small_tokenizer(), calibration_batches(small_set()), folder)
    save_fusion_model(model, small_tokenizer(), folder / TRAINED_FOLDER)
    return model, folder, load_verdict_model(folder)


@pytest.fixture(scope="module")
def attention(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    export_model(taught_model("attention"), small_tokenizer(), calibration_batches(small_set()), folder)
    return folder


@pytest.fixture(scope="module")
def model(attention) -> VerdictModel:
    return load_verdict_model(attention)


def encoded(model: VerdictModel, count: int = 40) -> list[EncodedEvent]:
    return [model.encoder.encode(example.event) for example in examples()[:count]]


def probabilities(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def test_the_export_scores_as_the_trained_model(exported):
    trained, _, model = exported
    rows = np.arange(100)
    expected = probabilities(logits(trained, small_set(), rows))
    found = probabilities(model.score(encoded(model, 100)).logits)
    assert np.abs(found - expected).max() < 0.01


def test_an_event_has_the_same_bits_alone_and_in_any_batch(exported):
    model = exported[2]
    events = encoded(model)
    together = model.score(events)
    for size in (1, 2, 7):
        order = np.random.default_rng(size).permutation(len(events))
        for start in range(0, len(order), size):
            places = order[start : start + size]
            some = model.score([events[place] for place in places])
            assert some.logits.tobytes() == together.logits[places].tobytes()
            assert some.factor_probabilities.tobytes() == together.factor_probabilities[places].tobytes()


def test_a_text_has_a_vector_of_the_same_bits_alone_and_in_any_batch(exported):
    trained, _, model = exported
    events = encoded(model)
    texts = [event.token_ids for event in events]
    if trained.settings.variant == "features":
        assert not model.embeds
        with pytest.raises(ValueError, match=r"model tiny@\w{8}: expected an output text, found none; export it anew"):
            model.embed(texts)
        return
    vectors = model.embed(texts)
    assert vectors.shape == (len(texts), 32)
    order = np.random.default_rng(0).permutation(len(texts))
    assert model.embed([texts[place] for place in order]).tobytes() == vectors[order].tobytes()
    for place in (0, 7):
        assert model.embed([texts[place]]).tobytes() == vectors[place].tobytes()
    batch = small_set().batch(np.arange(len(texts)))
    with torch.inference_mode():
        expected = trained.embed(torch.from_numpy(batch.token_ids)).numpy()
    assert np.abs(expected - vectors).max() < 0.01 * np.abs(vectors).max()


def test_torch_scores_as_the_export(exported):
    _, folder, model = exported
    network = load_torch_network(folder / TRAINED_FOLDER, model.spec, device="cpu")
    events = encoded(model, 12)
    pads = max(len(event.token_ids) for event in events)
    token_ids = np.array([[*event.token_ids, *[0] * (pads - len(event.token_ids))] for event in events])
    numbers = np.stack([event.features for event in events]).astype(np.float32)
    verdict, factors = network(token_ids, numbers, np.array([model.spec.market_index(e.market) for e in events]))
    scores = model.score(events)
    assert np.abs(probabilities(verdict) - probabilities(scores.logits)).max() < 0.01
    assert np.abs(1 / (1 + np.exp(-factors)) - scores.factor_probabilities).max() < 0.05


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_gpu_that_is_not_there_is_an_error_that_names_the_remedy():
    with pytest.raises(RuntimeError, match="expected a GPU that torch can use, found none; set the device to cpu"):
        load_verdict_model(SHIPPED, device="cuda")


def test_trained_weights_of_another_model_are_refused(exported):
    _, folder, model = exported
    with pytest.raises(ValueError, match="of another model than the export beside it"):
        load_torch_network(folder / TRAINED_FOLDER, model.spec.model_copy(update={"name": "other"}), device="cpu")
    with pytest.raises(ValueError, match="expected gone/ for a GPU, found none"):
        load_torch_network(folder / "gone", model.spec, device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trained_weights_run_in_the_precision_asked_for(exported, dtype):
    _, folder, model = exported
    events = encoded(model, 8)
    token_ids = np.array([[*event.token_ids[:32], *[0] * (32 - len(event.token_ids))] for event in events])
    numbers = np.stack([event.features for event in events]).astype(np.float32)
    given = token_ids, numbers, np.zeros(len(events), np.int64)
    exact, _ = load_torch_network(folder / TRAINED_FOLDER, model.spec, device="cpu", dtype="float32")(*given)
    found, _ = load_torch_network(folder / TRAINED_FOLDER, model.spec, device="cpu", dtype=dtype)(*given)
    moved = np.abs(probabilities(found) - probabilities(exact)).max()
    assert moved == 0.0 if dtype == "float32" else 0.0 < moved < 0.05


def test_weights_in_use_and_their_precision_are_part_of_the_version(exported, tmp_path):
    _, folder, model = exported
    shutil.copytree(folder, tmp_path / "copy")
    copy = tmp_path / "copy"
    on_gpu = [read_identity(copy, device="cuda", dtype=dtype).version for dtype in ("float16", "bfloat16")]
    assert len({model.version, *on_gpu}) == 3
    weights = copy / TRAINED_FOLDER / WEIGHTS_FILE
    state = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in state.items()}, weights)
    assert read_identity(copy).version == model.version, "a CPU does not use them"
    assert read_identity(copy, device="cuda").version != on_gpu[0]
    weights.unlink()
    with pytest.raises(ValueError, match=f"expected trained/{WEIGHTS_FILE}, found none"):
        read_identity(copy, device="cuda")


def test_a_gpu_takes_events_of_many_lengths_in_one_call(model):
    shapes = []

    def network(token_ids, features, markets):
        shapes.append(token_ids.shape)
        return np.repeat((token_ids != 0).sum(1, keepdims=True), 3, 1).astype(np.float32), np.zeros((len(markets), 18))

    def cut(*, same_bits):
        shapes.clear()
        found = VerdictModel(
            network,
            model.spec,
            model.encoder,
            version="x@1",
            temperature=1.0,
            max_batch_tokens=4096,
            same_bits=same_bits,
        ).score(events)
        assert found.logits[:, 0].tolist() == [len(event.token_ids) for event in events], "each in its own row"
        return list(shapes)

    event = model.encoder.encode(parse_event(sample_event()))
    events = [replace(event, token_ids=[5] * length) for length in (200, 10, 150, 90, 40, 10)]
    assert len(cut(same_bits=True)) == 5
    assert cut(same_bits=False) == [(6, 200)]


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path):
    model, batches = taught_model("attention"), calibration_batches(small_set())
    export_model(model, small_tokenizer(), batches, tmp_path / "one")
    export_model(model, small_tokenizer(), batches, tmp_path / "two", one_file_up_to=10_000)
    export_model(model, small_tokenizer(), batches, tmp_path / "two", one_file_up_to=10_000)  # over an earlier one
    one, two = (load_verdict_model(tmp_path / name) for name in ("one", "two"))
    weights = tmp_path / "two" / ONNX_WEIGHTS_FILE
    assert weights.stat().st_size > 0.8 * (tmp_path / "one" / ONNX_FILE).stat().st_size / 2
    assert (tmp_path / "two" / ONNX_FILE).stat().st_size < (tmp_path / "one" / ONNX_FILE).stat().st_size
    events = encoded(one, 20)
    assert np.array_equal(one.score(events).logits, two.score(events).logits)
    changed = bytearray(weights.read_bytes())
    changed[100] ^= 1
    weights.write_bytes(changed)
    assert read_identity(tmp_path / "two").version != two.version


def test_an_export_without_rounding_scores_the_judged_events_never(tmp_path):
    judged = [tuple(np.full_like(part, 10**6) for part in batch) for batch in calibration_batches(small_set())]
    export_model(
        taught_model("features"),
        small_tokenizer(),
        calibration_batches(small_set()),
        tmp_path,
        int8=False,
        judged=judged,
    )
    assert json.loads((tmp_path / EXPORT_FILE).read_text())["rounded"] == []


def test_shapes_and_an_empty_batch(model):
    scores = model.score(encoded(model, 3))
    assert (scores.logits.shape, scores.factor_probabilities.shape) == ((3, 3), (3, 18))
    assert scores.logits.dtype == scores.factor_probabilities.dtype == np.float32
    assert ((scores.factor_probabilities >= 0) & (scores.factor_probabilities <= 1)).all()
    assert model.score([]).logits.shape == (0, 3)


@given(event_mappings())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_event_gives_nan(model, mapping):
    scores = model.score([model.encoder.encode(parse_event(mapping))])
    assert np.isfinite(scores.logits).all()
    assert np.isfinite(scores.factor_probabilities).all()


def test_an_unknown_market_is_scored(model):
    event = model.encoder.encode(parse_event(sample_event()))
    known, unknown, other = model.score([event, replace(event, market="ZZ"), replace(event, market="XX")]).logits
    assert np.isfinite(unknown).all()
    assert np.array_equal(unknown, other)
    assert not np.array_equal(known, unknown)


def test_67_features_are_refused(model):
    event = model.encoder.encode(parse_event(sample_event()))
    with pytest.raises(ValueError, match="expected 68 features, found 67; encode it with this model's encoder"):
        model.score([replace(event, features=event.features[:-1])])


def test_a_folder_of_another_feature_order_is_refused(attention, tmp_path):
    for path in attention.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    described = json.loads((tmp_path / SPEC_FILE).read_text())
    described["features"] = described["features"][::-1]
    (tmp_path / SPEC_FILE).write_text(json.dumps(described))
    with pytest.raises(ValueError, match="expected feature 0 to be"):
        load_verdict_model(tmp_path)


@pytest.mark.parametrize("name", [ONNX_FILE, SPEC_FILE, "tokenizer.json"])
def test_a_missing_file_is_named(attention, tmp_path, name):
    for path in attention.iterdir():
        if path.name != name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=f"expected {name}, found none"):
        load_verdict_model(tmp_path)


def test_the_temperature_comes_from_calibration(attention, tmp_path):
    for path in attention.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = load_verdict_model(tmp_path)
    (tmp_path / CALIBRATION_FILE).write_text('{"temperature": 1.7}')
    after = load_verdict_model(tmp_path)
    assert (before.temperature, after.temperature) == (1.0, 1.7)
    assert before.version == after.version, "calibration changes no raw score"
    (tmp_path / CALIBRATION_FILE).write_text('{"temperature": -1}')
    with pytest.raises(ValueError, match="expected a temperature above 0"):
        load_verdict_model(tmp_path)


def test_the_shipped_export_scores_as_the_trained_weights_beside_it():
    trained, _ = load_fusion_model(SHIPPED / TRAINED_FOLDER)
    model = load_verdict_model(SHIPPED)
    assert trained.spec == model.spec
    events = [model.encoder.encode(example.event) for example in examples()]
    pad_id = trained.text_encoder.config.pad_token_id
    data = EncodedSet(encode_examples(examples(), model.encoder), model.spec.markets, pad_id=pad_id, unknown_id=2)
    expected = probabilities(logits(trained, data, np.arange(len(events))))
    assert np.abs(probabilities(model.score(events).logits) - expected).max() < 0.01


def test_the_shipped_model_fits_and_needs_no_torch():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) <= 25 * 2**20
    program = (
        "import sys; from pathlib import Path; from cancellation.model.verdict_model import load_verdict_model; "
        f"model = load_verdict_model(Path({str(SHIPPED)!r})); assert 'torch' not in sys.modules; print(model.version)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "@" in done.stdout


def test_a_layer_that_moves_scores_too_far_stays_unrounded(tmp_path: Path) -> None:
    trained = taught_model("attention")
    first = trained.text_encoder.layers[0]
    with torch.no_grad():
        first.mlp_norm.weight[0] *= 1e5  # the same function, but one channel leaves no room in 8 bits for the others
        first.mlp.Wi.weight[:, 0] /= 1e5
    batches = calibration_batches(small_set())

    def exported_within(tolerance: float) -> dict[str, Any]:
        export_model(trained, small_tokenizer(), batches, tmp_path, tolerance=tolerance)
        return json.loads((tmp_path / "export.json").read_text())

    everything = exported_within(1.0)
    assert len(everything["rounded"]) == 4
    tolerance = everything["largest_difference"] / 2
    report = exported_within(tolerance)
    assert report["largest_difference"] <= tolerance
    of_layers = Counter(name.split("layers.")[1][0] for name in report["rounded"])
    assert of_layers["0"] < 2, "of the harmed layer nothing was left out"
    assert of_layers["0"] <= of_layers["1"]
    assert report["judged_events"] == sum(len(features) for _, features, _ in batches)
