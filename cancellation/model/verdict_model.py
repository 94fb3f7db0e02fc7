"""The model as it scores: on CPUs an exported network behind ONNX Runtime, on a GPU the trained one by torch.

A folder holds `model.onnx`, `tokenizer.json`, `model.json` (`ModelSpec`), once calibrated `calibration.json` with the
temperature, and in `trained/` the weights that a GPU runs. Scores are raw: policy and calibration are applied
elsewhere. On a CPU an event has the same bits alone and in any batch; on a GPU it has them up to its precision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cancellation.model.spec import SPEC_FILE, WEIGHTS_FILE, ModelIdentity, ModelSpec, load_spec
from cancellation.text.encoding import EncodedEvent, EventEncoder
from cancellation.text.tokenizer import PAD_TOKENS, TOKENIZER_FILE, load_tokenizer, token_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ONNX_FILE, CALIBRATION_FILE, TRAINED_FOLDER = "model.onnx", "calibration.json", "trained"
ONNX_WEIGHTS_FILE = f"{ONNX_FILE}.data"
"""Beside the network, where its weights do not fit into one protocol buffer of 2 GiB."""
INPUTS, OUTPUTS = ("token_ids", "features", "markets"), ("verdict", "factors")
TEXT_OUTPUT = "text"
"""The text as one vector, the mean of its tokens' embeddings; an export may lack it."""

_WIDTH_STEP = 32
"""On a CPU texts are padded to multiples of it, and share a call with those of the same width alone: how a sum over a
text is cut into vectors depends on the width, and so do its last digits."""

_GPU_WIDTH_STEP = 8
"""On a GPU one call takes events of many widths, each padded to the longest: a call costs more than padding, and what
half precision rounds is more than the width does. Tensor cores want multiples of eight."""

Network = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Token ids (n, t), features (n, 68), market rows (n,) -> logits of the classes (n, 3) and of the factors (n, 18)."""

Reader = Callable[[np.ndarray], np.ndarray]
"""Token ids (n, t) -> the texts' vectors (n, width)."""

Device = Literal["cpu", "cuda"]
Dtype = Literal["float16", "bfloat16", "float32"]

_MAX_BATCH_TOKENS: dict[Device, int] = {"cpu": 4096, "cuda": 65_536}
"""Padded tokens of one call; on a core 32 events of the longest, more is no faster."""


@dataclass(frozen=True)
class Scores:
    """Raw scores of n events, in the order they were given."""

    logits: np.ndarray
    """Of the classes, float32 (n, 3), uncalibrated."""

    factor_probabilities: np.ndarray
    """Of the decision factors, float32 (n, 18)."""


class VerdictModel:
    """An exported model: `encoder` makes its inputs, `score` takes them."""

    def __init__(
        self,
        network: Network,
        spec: ModelSpec,
        encoder: EventEncoder,
        *,
        version: str,
        temperature: float,
        max_batch_tokens: int,
        same_bits: bool = True,
        reader: Reader | None = None,
    ) -> None:
        self.spec = spec
        self.encoder = encoder
        self.version = version
        """Name and digest of the weights in use, their precision and the files beside them."""
        self.temperature = temperature
        """Of `calibration.json`; 1.0 if the folder has none."""
        self._network = network
        self._pad = token_of(encoder.tokenizer, PAD_TOKENS)
        self._max_batch_tokens = max_batch_tokens
        self._same_bits = same_bits
        self._reader = reader

    @property
    def embeds(self) -> bool:
        """Whether it gives texts' vectors; one that reads no text, was exported before or runs on a GPU does not."""
        return self._reader is not None

    @property
    def identity(self) -> ModelIdentity:
        """What a proof of its thresholds has to be of."""
        return ModelIdentity(self.version, self.temperature, self.spec.markets)

    def score(self, events: Sequence[EncodedEvent]) -> Scores:
        """Score encoded events; inside, events of about one length share a call.

        Raises:
            ValueError: If an event has another number of features than the model.
        """
        logits = np.empty((len(events), len(self.spec.classes)), np.float32)
        factors = np.empty((len(events), len(self.spec.factors)), np.float32)
        for rows, width in self._calls([len(event.token_ids) for event in events]):
            logits[rows], factors[rows] = self._run([events[row] for row in rows], width)
        return Scores(logits, factors)

    def embed(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Give the vectors of texts in token ids (`EventEncoder.fit`), float32 (n, width), in the order given.

        Raises:
            ValueError: If the model gives none (`embeds`).
        """
        if self._reader is None:
            raise ValueError(f"model {self.version}: expected an output {TEXT_OUTPUT}, found none; export it anew")
        found: dict[int, np.ndarray] = {}
        for rows, width in self._calls([len(text) for text in texts]):
            found |= zip(rows, self._reader(self._padded([texts[row] for row in rows], width)), strict=True)
        return np.stack([found[row] for row in range(len(texts))]) if found else np.empty((0, 0), np.float32)

    def _padded(self, texts: Sequence[Sequence[int]], width: int) -> np.ndarray:
        token_ids = np.full((len(texts), width), self._pad, np.int64)
        for row, text in enumerate(texts):
            token_ids[row, : len(text)] = text
        return token_ids

    def _calls(self, lengths: Sequence[int]) -> Iterator[tuple[list[int], int]]:
        """Cut events of these lengths into calls: the places of a call's events, and the width they are padded to."""
        step = _WIDTH_STEP if self._same_bits else _GPU_WIDTH_STEP
        widths = [max(length, min(-(-length // step) * step, self.spec.max_tokens)) for length in lengths]
        rows: list[int] = []
        for place in sorted(range(len(widths)), key=widths.__getitem__):
            width = widths[rows[-1]] if rows else 0  # the widest so far
            full = (len(rows) + 1) * widths[place] > self._max_batch_tokens
            if rows and (full or (self._same_bits and widths[place] != width)):
                yield rows, width
                rows = []
            rows.append(place)
        if rows:
            yield rows, widths[rows[-1]]

    def _run(self, events: Sequence[EncodedEvent], width: int) -> tuple[np.ndarray, np.ndarray]:
        features = np.empty((len(events), len(self.spec.features)), np.float32)
        for row, event in enumerate(events):
            if event.features.shape != features.shape[1:]:
                raise ValueError(
                    f"event {event.event_id}: expected {features.shape[1]} features, found {event.features.size}; "
                    "encode it with this model's encoder"
                )
            features[row] = event.features
        markets = np.array([self.spec.market_index(event.market) for event in events], np.int64)
        token_ids = self._padded([event.token_ids for event in events], width)
        verdict, factors = self._network(token_ids, features, markets)
        return verdict, 1.0 / (1.0 + np.exp(-np.clip(factors, -60.0, 60.0)))


def load_verdict_model(
    folder: Path, *, num_threads: int = 1, device: Device = "cpu", dtype: Dtype = "float16"
) -> VerdictModel:
    """Load an exported model.

    Args:
        folder: As `export_model` writes it; for a GPU with `trained/` beside.
        num_threads: Cores of one call, on a CPU.
        device: What to run on.
        dtype: Of matrix products on a GPU. On a CPU the export has decided.

    Raises:
        ValueError: If a file is missing, or the model is of another order of features, classes or factors.
        RuntimeError: If there is no GPU where one is asked for.
    """
    folder = Path(folder)
    spec = load_spec(folder)
    tokenizer = load_tokenizer(folder)
    if not (folder / ONNX_FILE).is_file():
        raise ValueError(f"model folder {folder}: expected {ONNX_FILE}, found none; export the model into it")
    reader: Reader | None = None
    if device == "cuda":
        from cancellation.model.torch_network import load_torch_network

        network = load_torch_network(folder / TRAINED_FOLDER, spec, dtype=dtype)
    else:
        network = _OnnxNetwork(folder / ONNX_FILE, num_threads)
        reader = network.read if network.reads else None
    return VerdictModel(
        network,
        spec,
        EventEncoder(tokenizer, max_tokens=spec.max_tokens, left_out=spec.left_out),
        version=_version(spec, folder, device, dtype),
        temperature=_temperature(folder),
        max_batch_tokens=_MAX_BATCH_TOKENS[device],
        same_bits=device == "cpu",
        reader=reader,
    )


def read_identity(folder: Path, *, device: Device = "cpu", dtype: Dtype = "float16") -> ModelIdentity:
    """Tell which model `load_verdict_model` would make of a folder, without loading its weights.

    Raises:
        ValueError: If its description or its calibration is refused.
    """
    spec = load_spec(folder)
    return ModelIdentity(_version(spec, folder, device, dtype), _temperature(folder), spec.markets)


class _OnnxNetwork:
    """An exported network on a CPU."""

    def __init__(self, path: Path, num_threads: int) -> None:
        self._path, self._num_threads = path, num_threads
        self._session = self._open(str(path))
        self._inputs = {node.name for node in self._session.get_inputs()}
        self.reads = TEXT_OUTPUT in {node.name for node in self._session.get_outputs()}

    def __call__(
        self, token_ids: np.ndarray, features: np.ndarray, markets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        given = dict(zip(INPUTS, (token_ids, features, markets), strict=True))
        verdict, factors = self._session.run(OUTPUTS, {name: given[name] for name in self._inputs})
        return verdict, factors

    def read(self, token_ids: np.ndarray) -> np.ndarray:
        (text,) = self._reading.run([TEXT_OUTPUT], {INPUTS[0]: token_ids})
        return text

    @cached_property
    def _reading(self) -> InferenceSession:
        return self._open(_text_part(self._path))

    def _open(self, network: str | bytes) -> InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def _text_part(path: Path) -> bytes:
    """Cut what gives texts' vectors out of a network: ONNX Runtime computes all of one, whatever it is asked for."""
    import onnx

    model = onnx.load(str(path))
    nodes, needed = [], {TEXT_OUTPUT}
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    parts = (model.graph.input, model.graph.output, model.graph.initializer)
    inputs, outputs, weights = ([one for one in part if one.name in needed] for part in parts)
    graph = onnx.helper.make_graph(nodes[::-1], TEXT_OUTPUT, inputs, outputs, weights)
    return onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    ).SerializeToString()


def _version(spec: ModelSpec, folder: Path, device: Device, dtype: Dtype) -> str:
    """Name what decides the raw scores: the weights in use, their precision, tokeniser, description.

    The export and the weights that a GPU runs round differently: a proof made with one is none of the other.
    """
    digest = hashlib.sha256()
    weights = [ONNX_FILE, ONNX_WEIGHTS_FILE] if device == "cpu" else [f"{TRAINED_FOLDER}/{WEIGHTS_FILE}"]
    for name in (*weights, SPEC_FILE, TOKENIZER_FILE):
        path = folder / name
        if name == ONNX_WEIGHTS_FILE and not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                while piece := file.read(2**24):
                    digest.update(piece)
        except FileNotFoundError:
            raise ValueError(f"model folder {folder}: expected {name}, found none; train it anew") from None
    if device != "cpu":
        digest.update(f"{device} {dtype}".encode())
    return f"{spec.name}@{digest.hexdigest()[:8]}"


def _temperature(folder: Path) -> float:
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return 1.0
    try:
        temperature = float(json.loads(path.read_text(encoding="utf-8"))["temperature"])
    except (ValueError, KeyError, TypeError):
        temperature = float("nan")
    if not 0.0 < temperature < 100.0:
        raise ValueError(f"{path}: expected a temperature above 0 and below 100, found none; calibrate the model anew")
    return temperature
