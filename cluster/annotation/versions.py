"""Rules that people label by: a text with a version, a digest of what it says, and a history of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def content_digest(content: Mapping[str, Any]) -> str:
    """Digest everything that a file of rules says except its version and its history: layout does not count."""
    said = {name: value for name, value in content.items() if name not in ("version", "history")}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def check_version(name: str, content: Mapping[str, Any]) -> str:
    """Give a text's digest, if it is the one that its version was recorded for: labels name the version they follow.

    Raises:
        ValueError: If it is not, naming the file and the digest that a new entry of its [[history]] needs.
    """
    version, digest = content["version"], content_digest(content)
    versions = [entry["version"] for entry in content.get("history", [])]
    if len({*versions}) < len(versions):
        raise ValueError(f"{name}: a version stands twice in [[history]]: {', '.join(versions)}")
    recorded = {entry["version"]: entry["digest"] for entry in content.get("history", [])}
    if version not in recorded:
        raise ValueError(
            f"{name}: version {version} is not in [[history]]: add it there with digest {digest} and what changed"
        )
    if recorded[version] != digest:
        raise ValueError(
            f"{name}: the content changed (digest {digest}) but version {version} stands for digest "
            f"{recorded[version]}: give it a new version, and add that to [[history]] with the new digest and what "
            "changed"
        )
    return digest
