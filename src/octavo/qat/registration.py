"""Makes octavo's layers known to Keras, whichever of the two is imported first.

A `.keras` file names its layers' classes, and Keras in safe mode takes registered ones only. So that `import octavo` is
enough to load an aware model, and still imports no Keras, a finder waits for `import keras` and registers right after.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def register() -> None:
    """Register the layers now if Keras is here, else once it comes."""
    if "keras" in sys.modules:
        _register()
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def _register() -> None:
    keras = sys.modules["keras"]
    # An old Keras is none of ours: what fails here must not stop `import keras`.
    if str(getattr(keras, "__version__", "0")).partition(".")[0] == "3":
        with contextlib.suppress(ImportError, AttributeError):
            importlib.import_module("octavo.qat.layers")


class _Waiting:
    """Finds `keras` as the others do, with a loader that registers; gone once that has run.

    A finder and a loader by their methods: the base classes in `importlib.abc` would take longer to import than octavo.
    """

    def __init__(self) -> None:
        self._asking = False

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "keras" or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)  # pyright: ignore[reportAttributeAccessIssue]
        return spec


class _Loader:
    """Another loader, and after it the registration."""

    def __init__(self, loader: Any, waiting: _Waiting) -> None:
        self._loader, self._waiting = loader, waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        if self._waiting in sys.meta_path:
            sys.meta_path.remove(self._waiting)
        _register()
