"""What a result depends on: versions, the machine, and fingerprints of what went in."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from importlib import metadata
from typing import Any

import numpy as np

import octavo

_PACKAGES = ("ai-edge-litert", "litert-converter", "numpy", "keras", "jax")


def versions() -> dict[str, str]:
    """Versions of octavo, Python and the packages that decide numbers; and the kind of machine."""
    found = {"octavo": octavo.__version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def fingerprint(*parts: Any) -> str:
    """SHA-256 of bytes, strings, arrays and dicts of them, in this order; their types and shapes count too."""
    digest = hashlib.sha256()
    for part in parts:
        _feed(digest, part)
    return digest.hexdigest()


def _feed(digest: Any, part: Any) -> None:
    if isinstance(part, dict):
        for key in sorted(part):
            _feed(digest, str(key))
            _feed(digest, part[key])
    elif isinstance(part, str | bytes):
        data = part.encode() if isinstance(part, str) else part
        digest.update(f"{type(part).__name__} {len(data)}:".encode())
        digest.update(data)
    else:
        array = np.ascontiguousarray(part)
        digest.update(f"array {array.dtype.str} {array.shape}:".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
