"""A Keras model on the TensorFlow or PyTorch backend: saved, and converted by a process on the JAX backend.

Keras reads its backend once per process, and a saved model holds no trace of it, so this costs a save and a load, and
nothing in this process changes. The other process imports the modules that the model's own classes come from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from octavo.errors import ConversionError, OctavoError
from octavo.frontends import keras_process
from octavo.graph import Program


def convert(
    model: Any, *, inputs: Any = None, batch: int | None = 1, where: str, imports: Sequence[str] = ()
) -> Program:
    """Convert a Keras model of another backend.

    Args:
      model: a built `keras.Model` that can be saved.
      inputs: as in `octavo.convert`.
      batch: as in `octavo.convert`.
      where: what messages call it.
      imports: names of modules that define classes and functions of the user's own.

    Raises:
      ConversionError: it can't be saved, or not be loaded and converted on the JAX backend; says why.
    """
    modules = list(dict.fromkeys([*imports, *_own_modules(model, where)]))
    with tempfile.TemporaryDirectory() as folder:
        saved = _save(model, folder, where)
        try:
            return keras_process.convert(saved, inputs=inputs, batch=batch, where=where, imports=modules)
        except OctavoError as error:
            why = str(error).replace(saved, where).removeprefix(f"{where}: ")
            raise ConversionError(
                f"{where} can't be converted on Keras's JAX backend, which octavo uses: {why}"
            ) from error


def _save(model: Any, folder: str, where: str) -> str:
    path = str(Path(folder) / "model.keras")
    try:
        model.save(path)
    except Exception as error:  # whatever a user's layer raises
        raise ConversionError(f"{where} can't be saved, which converting from this backend needs: {error}") from error
    return path


def _own_modules(model: Any, where: str) -> Iterator[str]:
    """The modules of layers, and of what layers use as activation, that are neither Keras's nor octavo's."""
    for layer in model._flatten_layers():
        activation: Any = getattr(layer, "activation", None)
        used: tuple[Any, ...] = (type(layer), activation if hasattr(activation, "__name__") else type(activation))
        for thing in used:
            if thing.__module__ == "__main__":
                raise ConversionError(
                    f"{where}: this script or notebook itself defines {thing.__name__}, and Keras's JAX backend, which "
                    "octavo uses, runs in a process that can't import it: define it in a module, or set "
                    "KERAS_BACKEND=jax before keras is imported"
                )
            if str(thing.__module__).partition(".")[0] not in ("keras", "octavo", "builtins"):
                yield thing.__module__
