"""A trained model as a small ONNX file for one CPU core, in float32 or with 8-bit matrix products.

Activations are rounded on scales found beforehand on real inputs (static quantisation). Scales found at each
call would depend on the batch an event is in: its score would change with its neighbours. Every export is compared
with the trained network, and layers whose rounding moves scores too far stay as they were trained.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from tokenizers import Tokenizer
from torch import nn

from cancellation.model.fusion import FusionModel
from cancellation.model.onnx_operators import masks_by_broadcasting, onnx_runtime_layers
from cancellation.model.spec import save_spec
from cancellation.model.verdict_model import INPUTS, ONNX_FILE, ONNX_WEIGHTS_FILE, OUTPUTS, TEXT_OUTPUT
from cancellation.text.tokenizer import TOKENIZER_FILE
from cluster.statistics.temperature import class_probabilities

logger = logging.getLogger(__name__)

EXPORT_FILE = "export.json"
"""What was rounded, and how far that moves scores."""

_OPSET = 17
_LARGE = 10_000
"""Weights of a table that is worth halving."""

_ONE_FILE_BYTES = 2**31 - 2**24
"""A protocol buffer holds less than 2 GiB; the graph itself takes some of it."""

_ROUNDED = ("mlp", "intermediate.dense", "ffn", "lin1", "fc1", "gate_proj", "up_proj", "wi", "wi_0", "wi_1")
"""Layers in 8 bits, by their names in ModernBERT, in the kinds of BERT and DeBERTa, in ALBERT, DistilBERT, Jina's,
Gemma's and T5's: the widest, two fifths of the products.

What enters them comes from a layer norm. Rounding what enters the others costs more than it saves: of 800 events
these move scores by up to 0.009, query, key and value by up to 0.020 more, and all layers by up to 0.045.
"""

_SAME = 1e-3
"""How far a traced graph's probabilities may be from the network's: both are in float32."""

Inputs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Token ids (n, t), features (n, 68), market rows (n,)."""


class _Exported(nn.Module):
    """The network with plain outputs, which gives an event the same bits alone and in a batch.

    A product with a single row has a kernel of its own in ONNX Runtime, whose sums end in other last digits. What has
    a row per event therefore gets one row more than there are events.
    """

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, token_ids: torch.Tensor, features: torch.Tensor, markets: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        read = self.model.read(token_ids)
        states, mask = (None if part is None else _with_another_row(part) for part in read)
        outputs = self.model.judge(states, mask, _with_another_row(features), _with_another_row(markets))
        scores = outputs.verdict_nc[:-1], outputs.factors_nf[:-1]
        return scores if states is None else (*scores, self.model.embed(token_ids))


def _with_another_row(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, torch.zeros_like(tensor[:1])])


def export_model(
    model: FusionModel,
    tokenizer: Tokenizer,
    calibration: Sequence[Inputs],
    folder: Path,
    *,
    int8: bool = True,
    judged: Sequence[Inputs] = (),
    tolerance: float = 0.01,
    one_file_up_to: int = _ONE_FILE_BYTES,
) -> None:
    """Write the folder that `load_verdict_model` loads.

    Args:
        model: What was trained.
        tokenizer: Its own.
        calibration: Batches of real inputs on which activations' scales are measured.
        folder: Where to.
        int8: Round what may be rounded; other large weights are kept in half precision anyway.
        judged: Batches on which rounding to 8 bits is judged; none: those of `calibration`.
        tolerance: How far a class's probability may move on them.
        one_file_up_to: Bytes of weights above which they lie in a file of their own beside the network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        plain, prepared = Path(scratch) / "plain.onnx", Path(scratch) / "prepared.onnx"
        write_onnx(model, plain)
        _require_same(model, plain, calibration[:4])
        quant_pre_process(
            str(plain),
            str(prepared),
            skip_symbolic_shape=True,
            save_as_external_data=True,  # in 32 bits an encoder of full size is more than a protocol buffer holds
            all_tensors_to_one_file=True,
            external_data_location=f"{prepared.name}.data",
        )
        # Halving is no choice that must be judged on many events: a few say how far it moves scores.
        events = judged or calibration if int8 else calibration
        rounding = _Rounding(plain, prepared, folder / ONNX_FILE, calibration, events, one_file_up_to)
        rounded, difference = rounding.within(tolerance) if int8 else rounding.without()
        num_events = rounding.num_events
    report = {"rounded": rounded, "largest_difference": round(difference, 6), "judged_events": num_events}
    (folder / EXPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / TOKENIZER_FILE))
    save_spec(model.spec, folder)


def _require_same(model: FusionModel, plain: Path, batches: Sequence[Inputs]) -> None:
    """Refuse a graph that judges otherwise than the network it was traced from: not every class of encoder can be."""
    with torch.inference_mode():
        logits = [model.eval()(*map(torch.from_numpy, batch)).verdict_nc.numpy() for batch in batches]
    exact = class_probabilities(np.concatenate(logits), 1.0)
    difference = float(np.abs(_probabilities(plain, batches) - exact).max(initial=0.0))
    if not difference <= _SAME:
        raise ValueError(
            f"export: expected the scores of the trained network, found {difference:.3f} from them; the encoder's "
            "class cannot be exported: train over another, or with export=false for a GPU"
        )


class _Rounding:
    """Rounds a prepared graph's layers, and fewer of them if that moves probabilities too far."""

    def __init__(
        self,
        plain: Path,
        prepared: Path,
        target: Path,
        calibration: Sequence[Inputs],
        judged: Sequence[Inputs],
        one_file_up_to: int,
    ) -> None:
        self._prepared, self._target, self._calibration, self._judged = prepared, target, calibration, judged
        self._one_file_up_to = one_file_up_to
        self._exact = _probabilities(plain, judged)
        graph = onnx.load(str(prepared), load_external_data=False).graph
        self._layers = [node.name for node in graph.node if _is_rounded(node)]
        self.num_events = len(self._exact)

    def within(self, tolerance: float) -> tuple[list[str], float]:
        """Write the graph with as many rounded layers as keep the tolerance; give them and the difference."""
        layers = self._layers
        difference = self._write(layers)
        if difference <= tolerance:
            return layers, difference
        # Those that move scores most by themselves stay as they are. A trial for each layer and a few more: one for
        # each layer that could be left out next would be hours of an encoder of full size.
        ranked = sorted(layers, key=lambda name: self._write([name]))
        fits, too_many = 0, len(ranked)
        while too_many - fits > 1:
            tried = (fits + too_many) // 2
            difference = self._write(ranked[:tried])
            logger.info("%d layers in 8 bits move a score by %.4f at most", tried, difference)
            fits, too_many = (tried, too_many) if difference <= tolerance else (fits, tried)
        return ranked[:fits], self._write(ranked[:fits])

    def without(self) -> tuple[list[str], float]:
        """Write the graph without rounded layers."""
        return [], self._write([])

    def _write(self, layers: Sequence[str]) -> float:
        source = self._prepared
        if layers:
            source = source.with_name("rounded.onnx")
            quantize(self._prepared, source, self._calibration, layers)
        halve_weights(source, self._target, one_file_up_to=self._one_file_up_to)
        return float(np.abs(_probabilities(self._target, self._judged) - self._exact).max(initial=0.0))


def _probabilities(path: Path, batches: Sequence[Inputs]) -> np.ndarray:
    """Of the classes, (n, 3), by a graph."""
    options = SessionOptions()
    options.intra_op_num_threads = 1  # as it will score
    session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {node.name for node in session.get_inputs()}
    given = [{name: array for name, array in zip(INPUTS, batch, strict=True) if name in names} for batch in batches]
    return class_probabilities(np.concatenate([session.run(OUTPUTS[:1], inputs)[0] for inputs in given]), 1.0)


def write_onnx(model: FusionModel, path: Path) -> None:
    """Trace the network into an ONNX file in float32; batch and length stay free."""
    if model.text_encoder is not None:
        model.text_encoder.set_attn_implementation("eager")
    features = torch.zeros(2, len(model.spec.features))
    features[:, ::3] = torch.nan
    token_ids = torch.full((2, 24), 5)
    token_ids[1, 20:] = model.text_encoder.config.pad_token_id if model.text_encoder is not None else 0
    outputs = [*OUTPUTS, *([TEXT_OUTPUT] if model.text_encoder is not None else [])]
    free = {"token_ids": {0: "events", 1: "tokens"}, "features": {0: "events"}, "markets": {0: "events"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with masks_by_broadcasting(), onnx_runtime_layers(model.text_encoder, opset_version=_OPSET):
            torch.onnx.export(
                _Exported(model).eval(),  # the exporter sets the mode it found back on all parts
                (token_ids, features, torch.zeros(2, dtype=torch.long)),
                str(path),
                input_names=list(INPUTS),
                output_names=outputs,
                dynamic_axes={**free, **{name: {0: "events"} for name in outputs}},
                opset_version=_OPSET,
                dynamo=False,
            )


def _is_rounded(node: onnx.NodeProto) -> bool:
    module = ".".join(node.name.split("/")[:-1])
    is_layer = ".text_encoder." in module and module.endswith(tuple(f".{layer}" for layer in _ROUNDED))
    return is_layer and node.op_type in ("MatMul", "Gemm")


class _Reader(CalibrationDataReader):
    def __init__(self, batches: Sequence[Inputs], names: set[str]) -> None:
        self._batches: Iterator[Inputs] = iter(batches)
        self._names = names

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        return {name: array for name, array in zip(INPUTS, batch, strict=True) if name in self._names}


def quantize(source: Path, target: Path, calibration: Sequence[Inputs], layers: Sequence[str]) -> None:
    """Round the products of some layers to 8 bits: weights per output, activations on measured scales."""
    names = {node.name for node in onnx.load(str(source), load_external_data=False).graph.input}
    target.with_name(f"{target.name}.data").unlink(missing_ok=True)  # of an earlier try: it would be added to
    quantize_static(
        str(source),
        str(target),
        _Reader(calibration, names),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        # Signed weights saturate sums of two products on a CPU without VNNI: scores would depend on the machine.
        weight_type=QuantType.QUInt8,
        calibrate_method=CalibrationMethod.MinMax,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_quantize=list(layers),
        use_external_data_format=True,
        # A product's result stays in float32: less rounding, and one fused operator where there were three.
        extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
    )


def halve_weights(source: Path, target: Path, *, one_file_up_to: int = _ONE_FILE_BYTES) -> None:
    """Keep the large tables in half precision: half the file, no time (they are widened when the file is loaded)."""
    model = onnx.load(str(source))
    graph = model.graph
    users = {name: node for node in graph.node for name in node.input}
    turns = {name for node in graph.node if node.op_type == "RotaryEmbedding" for name in node.input}
    for table in [table for table in graph.initializer if _is_large(table) and table.name not in turns]:
        values = onnx.numpy_helper.to_array(table).astype(np.float16)
        half = f"{table.name}.half"
        graph.initializer.remove(table)
        graph.initializer.append(onnx.numpy_helper.from_array(values, half))
        user = users[table.name]
        if user.op_type == "Gather":  # widened row by row, else the whole table of tokens would be
            _gather_half(graph, user, half)
        else:
            graph.node.insert(0, onnx.helper.make_node("Cast", [half], [table.name], to=onnx.TensorProto.FLOAT))
    beside = target.with_name(ONNX_WEIGHTS_FILE)
    beside.unlink(missing_ok=True)
    apart = sum(onnx.numpy_helper.to_array(table).nbytes for table in graph.initializer) > one_file_up_to
    onnx.save(model, str(target), save_as_external_data=apart, location=beside.name if apart else None)


def _is_large(table: onnx.TensorProto) -> bool:
    return table.data_type == onnx.TensorProto.FLOAT and len(table.dims) == 2 and math.prod(table.dims) >= _LARGE


def _gather_half(graph: onnx.GraphProto, node: onnx.NodeProto, half: str) -> None:
    place, rows = list(graph.node).index(node), f"{half}.rows"
    graph.node.remove(node)
    graph.node.insert(place, onnx.helper.make_node("Gather", [half, node.input[1]], [rows]))
    graph.node.insert(place + 1, onnx.helper.make_node("Cast", [rows], list(node.output), to=onnx.TensorProto.FLOAT))
