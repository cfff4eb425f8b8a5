"""One `.tflite` model on LiteRT, in the file's own dtypes. Everything that runs a model goes through here.

LiteRT runs inside this process, so a file that crashes LiteRT ends the process; the command line survives that
(`octavo.cli.guard`). A `Session` is made of plain data
(bytes or a path, three settings) and takes and gives
dicts of arrays, so the same calls can be served by a child process.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from octavo.errors import DataError, ModelFileError, RunError
from octavo.qtypes import QParams
from octavo.runtime.signatures import Entry, entry_point, read_signatures, uses_op
from octavo.text import printable
from octavo.tflite.check import IDENTIFIER
from octavo.tflite.files import describe


@runtime_checkable
class HasBytes(Protocol):
    """An object that knows its `.tflite` bytes, as `octavo.Model` does."""

    def __bytes__(self) -> bytes: ...


ModelLike = bytes | str | os.PathLike[str] | HasBytes
Kernels = Literal["xnnpack", "builtin", "reference"]

# Names of LiteRT's resolvers (ai_edge_litert.interpreter.OpResolverType).
_RESOLVERS: dict[str, str] = {
    "xnnpack": "AUTO",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}

# What LiteRT says while views of its memory are about, and how long to wait for those who let go of them soon.
_HELD = "reference to internal data"
_PAUSES = (0.001, 0.01, 0.1, 0.5)  # seconds
_EMPTY = "Invalid tensor size"  # what LiteRT says when it is asked for a tensor without elements


@dataclass(frozen=True, eq=False)
class Port:
    """One input or output of a model.

    Attributes:
      name: the signature's name for it; without a signature the tensor's name, made unique ("input", "input_1").
      index: LiteRT's index of the tensor.
      shape: shape at load; a dynamic dimension stands as 1 (outputs of a model with dynamic inputs: as in the file).
      shape_signature: the same with -1 for dynamic dimensions.
      dtype: as stored in the file.
      scale: float32, shape (0,) if not quantized, (1,) per tensor, (channels,) per channel.
      zero_point: int64, the shape of `scale`.
      axis: the channel dimension, None when per tensor or not quantized.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    dtype: np.dtype
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None = None

    @property
    def qparams(self) -> QParams | None:
        """Scale and zero point if the stored numbers are codes, else None."""
        if self.scale.size == 0 or self.dtype.kind not in "iu":
            return None
        return QParams(self.scale, self.zero_point, self.axis)

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of `shape` fits, dynamic dimensions included."""
        return len(shape) == len(self.shape_signature) and all(
            have == want or want < 0 for have, want in zip(shape, self.shape_signature, strict=True)
        )


class Session:
    """A loaded model.

    Variables keep their state from one run to the next, as on the device: `reset()` brings the first state back.
    Not for use from two threads at once.

    Args:
      model: `.tflite` bytes, a path, or an object with `__bytes__`.
      kernels: "xnnpack" is what LiteRT does by default on a CPU; "builtin" are its optimized kernels without a
        delegate; "reference" are its plain kernels, slow and the closest to the specification.
      threads: threads inside one invocation; None is LiteRT's default, one.
      signature: which signature to run; None is the one of the main subgraph, if it has any.
      name: how messages call the model; None takes its file's name.

    Raises:
      ModelFileError: the path can't be read.
      RunError: LiteRT refuses the model, or there is no such signature.
    """

    def __init__(
        self,
        model: ModelLike,
        kernels: Kernels | str = "xnnpack",
        threads: int | None = None,
        signature: str | None = None,
        name: str | None = None,
    ) -> None:
        if kernels not in _RESOLVERS:
            hint = "; 'tflm' is for Runner, evaluate and parity only" if kernels == "tflm" else ""
            raise RunError(f"unknown kernel set {kernels!r}: use one of {', '.join(_RESOLVERS)}{hint}")
        if threads is not None and threads < 1:
            raise RunError(f"threads is {threads}: use 1 or more, or None for LiteRT's default")
        self.name = printable(name) if name else model_name(model)
        self.kernels = kernels
        self._allocated = False
        data = self._data = model_bytes(model)
        self._threads, self._key = threads, signature
        self._interpreter = self._load()
        self._names = names = read_signatures(data)
        self._has_resources = uses_op(data, "ASSIGN_VARIABLE")
        self._dirty = False
        if signature is not None and signature not in [n.key for n in names]:
            listed = ", ".join(repr(n.key) for n in names) or "none"
            raise RunError(f"{self.name} has no signature {signature!r}: it has {listed}")
        self.entry = self._describe()
        self.inputs = tuple(port(name, details) for name, details in self.entry.inputs)
        self._shapes = [p.shape for p in self.inputs]
        # With dynamic dimensions wait for the real shapes: some models can't be allocated with 1s in their place.
        # LiteRT's runner for another subgraph allocates by itself.
        if self.entry.runner is None and not any(-1 in p.shape_signature for p in self.inputs):
            self._allocate()
            self.entry = self._describe()  # outputs have their shapes now
        self.outputs = tuple(port(name, details) for name, details in self.entry.outputs)

    def run(self, arrays: Mapping[str, np.ndarray] | Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Run once on arrays in the file's own dtypes; nothing is scaled.

        Args:
          arrays: by input name, or in the order of `inputs`. Shapes may differ in the model's dynamic dimensions.

        Returns:
          output name -> array (a copy), in the file's own dtypes.

        Raises:
          DataError: an input is missing or unknown, or its shape or dtype is wrong.
          RunError: LiteRT fails; the message says at which node.
        """
        ordered = self._in_order(arrays)
        for p, array in zip(self.inputs, ordered, strict=True):
            if not p.accepts(array.shape):
                raise DataError(
                    f"input {p.name!r} of {self.name} has shape {list(p.shape_signature)}, got {list(array.shape)}"
                )
            if array.dtype != p.dtype and p.dtype.kind not in "SUO":
                raise DataError(f"input {p.name!r} of {self.name} takes {p.dtype.name}, got {array.dtype.name}")
        self.resize([array.shape for array in ordered])
        return dict(zip((p.name for p in self.outputs), self.invoke(ordered), strict=True))

    def resize(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Give the inputs new shapes (`Port.accepts` says which can be). Does nothing if they are the present ones."""
        if self.entry.runner is not None or (self._allocated and list(shapes) == self._shapes):
            return
        self._allocated = False
        try:
            for p, old, new in zip(self.inputs, self._shapes, shapes, strict=True):
                if tuple(new) != old:
                    self._interpreter.resize_tensor_input(p.index, list(new))
        except (ValueError, RuntimeError) as error:
            raise self._refused("can't resize the inputs", error) from None
        self._shapes = [tuple(shape) for shape in shapes]
        self._allocate()

    def invoke(self, arrays: Sequence[np.ndarray], views: bool = False) -> list[np.ndarray]:
        """The inner loop of `run`: no names, no checks beyond LiteRT's own, present shapes only.

        Outputs are copies; with `views` they are LiteRT's own memory where it can be shown, to be let go of before the
        session is used again. Not for a model that keeps state or is resized: see `_invoked`.
        """
        self._dirty = True
        if self.entry.runner is not None:
            return self._invoke_signature(arrays)
        try:
            if not self._invoked(arrays):
                self._reload()
                self._invoked(arrays)
        except (ValueError, RuntimeError) as error:
            raise self._refused("can't run it", error) from None
        return self._results(views)

    def _invoked(self, arrays: Sequence[np.ndarray]) -> bool:
        """Run; False if LiteRT refuses to, because views of its memory are left.

        A profiler that looks at the frames of all threads, as Dask's workers have one, holds what they hold for a
        moment; who holds on to them for longer keeps the interpreter that they belong to, and a new one is loaded.
        """
        for p, array in zip(self.inputs, arrays, strict=True):
            self._interpreter.set_tensor(p.index, array)
        for pause in _PAUSES:
            try:
                self._interpreter.invoke()
                return True
            except RuntimeError as error:
                if _HELD not in str(error):
                    raise
                time.sleep(pause)
        return False

    @property
    def interpreter(self) -> Any:
        """LiteRT's own object, for questions that a session doesn't answer."""
        return self._interpreter

    def reset(self) -> None:
        """Bring back the first state: variable tensors are zero, and resource variables as CALL_ONCE sets them up.

        LiteRT can't do the latter: the model is loaded anew.
        """
        if not self._has_resources:
            self._interpreter.reset_all_variables()
        elif self._dirty:
            self._reload()
        self._dirty = False

    def _reload(self) -> None:
        """Load the model anew, with the present shapes."""
        self._interpreter = self._load()
        self.entry = self._describe()
        self._allocated, shapes = False, self._shapes
        self._shapes = [p.shape for p in self.inputs]
        self.resize(shapes)

    def _invoke_signature(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A signature of another subgraph: LiteRT's own runner resizes and allocates at each call."""
        try:
            results = self.entry.runner(**{p.name: a for p, a in zip(self.inputs, arrays, strict=True)})
        except (ValueError, RuntimeError) as error:
            if _EMPTY not in str(error):
                raise self._refused("can't run it", error) from None
            return self._results()  # it ran, and its runner stumbled over an output
        return [results[p.name] for p in self.outputs]

    def _results(self, views: bool = False) -> list[np.ndarray]:
        """The outputs, once it ran. LiteRT doesn't give out a tensor without elements, such as no boxes found."""
        views = views and self.entry.subgraph == 0  # of which LiteRT shows its memory
        found = []
        for p in self.outputs:
            try:
                if views:
                    found.append(self._interpreter.tensor(p.index)())
                else:
                    found.append(self._interpreter.get_tensor(p.index, self.entry.subgraph))
            except (ValueError, RuntimeError) as error:
                shape = self.entry.shape_of(p.index, self._interpreter)
                if _EMPTY not in str(error) or 0 not in shape:
                    raise self._refused("can't run it", error) from None
                found.append(np.zeros(shape, p.dtype))
        return found

    def _load(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        data = self._data
        if data[4:8] != IDENTIFIER:
            raise RunError(
                f"{self.name} is no .tflite model: {describe(memoryview(data)) or 'another format, or empty'}"
            )
        resolver = OpResolverType[_RESOLVERS[self.kernels]]
        try:
            return Interpreter(model_content=data, num_threads=self._threads, experimental_op_resolver_type=resolver)
        except (ValueError, RuntimeError) as error:
            raise self._refused("can't load it", error) from None

    def _describe(self) -> Entry:
        try:
            return entry_point(self._interpreter, self._names, self._key)
        except (ValueError, RuntimeError) as error:  # names that aren't UTF-8, for one
            raise self._refused("can't tell its inputs and outputs", error) from None

    def _allocate(self) -> None:
        try:
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise self._refused("can't prepare it", error) from None
        self._allocated = True

    def _in_order(self, arrays: Mapping[str, np.ndarray] | Sequence[np.ndarray]) -> list[np.ndarray]:
        names = [p.name for p in self.inputs]
        if isinstance(arrays, Mapping):
            if set(arrays) != set(names):
                raise DataError(f"{self.name} has the inputs {names}, got {sorted(arrays)}")
            return [np.asarray(arrays[name]) for name in names]
        if len(arrays) != len(names):
            raise DataError(f"{self.name} has {len(names)} input(s) {names}, got {len(arrays)} array(s)")
        return [np.asarray(array) for array in arrays]

    def _refused(self, what: str, error: Exception) -> RunError:
        message = str(error)
        custom = re.search(r"unresolved custom op: ([^\n]+?)\.?(?:\n|$)", message)
        if custom:
            return RunError(
                f"{self.name} needs the custom op '{printable(custom[1])}', which LiteRT doesn't have: "
                "run it where that op is registered, or use a model without it"
            )
        if re.search(r"Flatbuffer|schema version", message):
            remedy = "the file is damaged"
        else:
            remedy = "try kernels=" + " or ".join(repr(k) for k in _RESOLVERS if k != self.kernels)
        return RunError(f"{self.name}: LiteRT's {self.kernels} kernels {what}: {first_line(message)}; {remedy}")


def model_bytes(model: ModelLike) -> bytes:
    """The `.tflite` bytes of bytes, a path, or an object with `__bytes__`.

    Raises:
      ModelFileError: the path can't be read.
      DataError: `model` is none of the three.
    """
    if isinstance(model, bytes | bytearray | memoryview):
        return bytes(model)
    if isinstance(model, str | os.PathLike):
        try:
            return Path(model).read_bytes()
        except OSError as error:
            raise ModelFileError(f"can't read {os.fspath(model)!r}: {error.strerror or error}") from None
    if isinstance(model, HasBytes):
        return bytes(model)
    raise DataError(f"a model is .tflite bytes, a path or an octavo.Model, not {type(model).__name__}")


def model_path(model: ModelLike) -> Path | None:
    """The file that a model came from, if it is known."""
    source = model if isinstance(model, str | os.PathLike) else getattr(model, "path", None)
    return Path(source) if isinstance(source, str | os.PathLike) and os.fspath(source) else None


def model_name(model: ModelLike) -> str:
    """How messages call a model: its file, its own name, or "the model"."""
    path = model_path(model)
    name = path if path is not None else getattr(model, "name", None)
    return printable(str(name)) if name else "the model"


def port(name: str, details: dict[str, Any]) -> Port:
    """A `Port` from what LiteRT tells about a tensor."""
    quantization = details["quantization_parameters"]
    scale = np.asarray(quantization["scales"], np.float32).reshape(-1)
    # A scale of 0 is how some old converters write "not quantized".
    scale = scale if scale.all() else scale[:0]
    zero_point = np.resize(np.asarray(quantization["zero_points"], np.int64), scale.shape)
    signature = details["shape_signature"]
    shape = tuple(int(n) for n in details["shape"])
    return Port(
        name,
        int(details["index"]),
        shape,
        tuple(int(n) for n in signature) if len(signature) == len(shape) else shape,
        np.dtype(details["dtype"]),
        scale,
        zero_point,
        int(quantization["quantized_dimension"]) if scale.size > 1 else None,
    )


def first_line(message: str) -> str:
    """What LiteRT's message says, on one line: its parts are glued together, with links between them."""
    message = re.sub(r"(?<=\S)\s*(?=Node number \d)", "; ", message)
    lines = [line.strip(" ;.") for line in message.splitlines()]
    said = [line for line in lines if line and "http" not in line]
    return printable("; ".join(said[:2]))[:300] or "it gave no reason"
