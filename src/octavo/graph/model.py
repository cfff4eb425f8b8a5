"""The program that octavo works on: subgraphs of ops over tensors, as a `.tflite` file has them, free of flatbuffers.

Tensors and ops are compared by identity, never by name: names in real files repeat, or are empty.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from octavo.graph.constants import Deferred, note_reading
from octavo.qtypes import QParams


class DType(enum.Enum):
    """Element types, named as in the `.tflite` schema. `numpy` is None where NumPy has no such type."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT32 = "int32"
    UINT8 = "uint8"
    INT64 = "int64"
    STRING = "string"
    BOOL = "bool"
    INT16 = "int16"
    COMPLEX64 = "complex64"
    INT8 = "int8"
    FLOAT64 = "float64"
    COMPLEX128 = "complex128"
    UINT64 = "uint64"
    RESOURCE = "resource"
    VARIANT = "variant"
    UINT32 = "uint32"
    UINT16 = "uint16"
    INT4 = "int4"
    BFLOAT16 = "bfloat16"
    INT2 = "int2"
    UINT4 = "uint4"
    FLOAT8_E4M3FN = "float8_e4m3fn"
    FLOAT8_E5M2 = "float8_e5m2"

    @property
    def numpy(self) -> np.dtype | None:
        try:
            return np.dtype(self.value)
        except TypeError:
            return None

    @property
    def is_float(self) -> bool:
        """A real-valued type: what integer-only files must not contain."""
        return "float" in self.value or "complex" in self.value


class Tensor:
    """One tensor of a subgraph.

    Attributes:
      name: as in the file; not unique.
      dtype: element type.
      shape: static shape; a dynamic dimension stands as 1 here and as -1 in `shape_signature`.
      data: raw little-endian bytes (uint8, 1-D) of a constant as the file stores them, None for a computed tensor.
        May be set to `Deferred` bytes, which are then made each time that they are read.
      qparams: scale and zero point if the tensor is quantized.
      shape_signature: as in the file, None if absent.
      has_rank: the file's flag: an empty shape means a scalar, not an unknown rank.
      is_variable: state that is kept between invocations.
      extra: parts of the file's record that octavo carries but doesn't read (sparsity, recorded min/max, ...).
    """

    __slots__ = (
        "dtype", "extra", "has_rank", "is_variable", "name", "qparams", "shape", "shape_signature", "stored",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        dtype: DType,
        shape: tuple[int, ...],
        data: np.ndarray | Deferred | None = None,
        qparams: QParams | None = None,
        shape_signature: tuple[int, ...] | None = None,
        has_rank: bool = True,
        is_variable: bool = False,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.stored = data
        self.qparams = qparams
        self.shape_signature = shape_signature
        self.has_rank = has_rank
        self.is_variable = is_variable
        self.extra: dict[str, Any] = {} if extra is None else extra

    @property
    def data(self) -> np.ndarray | None:
        if isinstance(self.stored, Deferred):
            return self.stored.join()
        if self.stored is not None:
            note_reading(self.stored)
        return self.stored

    @data.setter
    def data(self, data: np.ndarray | Deferred | None) -> None:
        self.stored = data

    @property
    def is_constant(self) -> bool:
        return self.stored is not None

    @property
    def nbytes(self) -> int:
        """Bytes of the constant in the file; 0 for a computed tensor."""
        return 0 if self.stored is None else self.stored.size

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def values(self) -> np.ndarray:
        """The constant as an array of `shape` and `dtype` (a view, don't write into it).

        Raises:
          ValueError: not a constant, of a type that NumPy hasn't got, or stored sparse or packed.
        """
        data = self.data
        if data is None or self.dtype.numpy is None:
            raise ValueError(f"tensor {self.name!r} ({self.dtype.value}) has no values that NumPy can show")
        return data.view(self.dtype.numpy).reshape(self.shape)

    def set_values(self, values: np.ndarray, dtype: DType | None = None) -> None:
        """Make this a constant of `values`; shape and dtype follow unless `dtype` says otherwise."""
        self.data = raw_bytes(values)
        self.dtype = dtype or DType(values.dtype.name)
        self.shape = tuple(values.shape)

    def copy(self, **changes: Any) -> Tensor:
        """A new tensor with the same record (the constant's bytes are shared) and `changes`."""
        record = {name: getattr(self, name) for name in self.__slots__ if name != "stored"}
        record |= {"data": self.stored, "extra": dict(self.extra)}
        return Tensor(**{**record, **changes})

    def __repr__(self) -> str:
        kind = "const " if self.is_constant else ""
        return f"<{kind}{self.name!r} {self.dtype.value}{list(self.shape)}>"


def raw_bytes(values: np.ndarray) -> np.ndarray:
    """The bytes of an array, row-major, as `Tensor.data` keeps them. No copy if the array is contiguous."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


@dataclass(eq=False, slots=True)
class Op:
    """One op.

    Attributes:
      code: the builtin's name in the schema ("CONV_2D"), or "CUSTOM".
      inputs: operands; None where an optional one is left out.
      outputs: results.
      options: the builtin's options, named as the schema names them ("strideW"); None if it has none.
      options_type: the options' table in the schema ("Conv2DOptions"), None if it has none.
      version: version of the kernel that the op asks for.
      custom_code: name of a custom op.
      custom_options: its options, byte for byte.
      intermediates: tensors inside fused ops (LSTM) that only carry scales.
      extra: parts of the file's record that octavo carries but doesn't read.
      origins: (kind, name) of the ops of the source that rewrites turned or merged into this one.
    """

    code: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: dict[str, Any] | None = None
    options_type: str | None = None
    version: int = 1
    custom_code: str | None = None
    custom_options: np.ndarray | None = None
    intermediates: list[Tensor] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    origins: tuple[tuple[str, str], ...] = ()

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """Every (kind, name of the first output) by which a user may know this op: its own, then its origins'."""
        return ((self.code, self.outputs[0].name if self.outputs else ""), *self.origins)

    @property
    def name(self) -> str:
        """How messages call this op: its kind and the tensor that it makes."""
        kind = f"CUSTOM:{self.custom_code}" if self.code == "CUSTOM" else self.code
        return f"{kind} {self.outputs[0].name!r}" if self.outputs else kind

    def option(self, key: str, default: Any = None) -> Any:
        return default if self.options is None else self.options.get(key, default)

    def __repr__(self) -> str:
        return f"<Op {self.name}>"


@dataclass(eq=False)
class Graph:
    """One subgraph: ops in an order in which they can run."""

    name: str = ""
    tensors: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def producers(self) -> dict[Tensor, Op]:
        """The op that makes each computed tensor."""
        return {tensor: op for op in self.ops for tensor in op.outputs}

    def consumers(self) -> dict[Tensor, list[Op]]:
        """The ops that read each tensor, in order; an op that reads it twice stands once."""
        readers: dict[Tensor, list[Op]] = {}
        for op in self.ops:
            for tensor in dict.fromkeys(t for t in op.inputs if t is not None):
                readers.setdefault(tensor, []).append(op)
        return readers

    def add_tensor(self, tensor: Tensor) -> Tensor:
        self.tensors.append(tensor)
        return tensor

    def drop_unused_tensors(self) -> int:
        """Forget the tensors that no op, input or output mentions; returns how many."""
        used: set[Tensor] = {*self.inputs, *self.outputs}
        for op in self.ops:
            used.update(t for t in op.inputs if t is not None)
            used.update(op.outputs)
            used.update(op.intermediates)
        # Blockwise scales stand in `extra` of the tensor that they belong to.
        used.update(value for tensor in [*used] for value in tensor.extra.values() if isinstance(value, Tensor))
        before = len(self.tensors)
        self.tensors = [tensor for tensor in self.tensors if tensor in used]
        return before - len(self.tensors)


@dataclass(eq=False)
class Signature:
    """A named entry point: pairs of name and tensor of one subgraph."""

    key: str
    inputs: list[tuple[str, Tensor]]
    outputs: list[tuple[str, Tensor]]
    graph: Graph


@dataclass(eq=False)
class Program:
    """A whole model: its subgraphs (the first is the main one), entry points and metadata.

    Attributes:
      source: where it came from, for messages; "" if made in memory.
      metadata: (name, raw bytes) pairs, in the file's order.
      extra: parts of the file's record that octavo carries but doesn't read.
    """

    graphs: list[Graph]
    signatures: list[Signature] = field(default_factory=list)
    metadata: list[tuple[str, np.ndarray]] = field(default_factory=list)
    description: str = ""
    version: int = 3
    source: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def main(self) -> Graph:
        return self.graphs[0]

    def tensors(self) -> Iterator[Tensor]:
        for graph in self.graphs:
            yield from graph.tensors

    def ops(self) -> Iterator[Op]:
        for graph in self.graphs:
            yield from graph.ops

    def clone(self) -> Program:
        """A copy whose graphs can be edited without touching this one; the bytes of constants are shared."""
        tensors: dict[Tensor, Tensor] = {}
        graphs = {graph: _clone_graph(graph, tensors) for graph in self.graphs}

        def pairs(named: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
            return [(name, tensors[tensor]) for name, tensor in named]

        signatures = [Signature(s.key, pairs(s.inputs), pairs(s.outputs), graphs[s.graph]) for s in self.signatures]
        return Program(
            list(graphs.values()),
            signatures,
            list(self.metadata),
            self.description,
            self.version,
            self.source,
            dict(self.extra),
        )


def _clone_graph(graph: Graph, tensors: dict[Tensor, Tensor]) -> Graph:
    """Copy one subgraph; `tensors` gathers old tensor -> new tensor."""
    for tensor in graph.tensors:
        tensors[tensor] = tensor.copy()
    for tensor in graph.tensors:
        extra = tensors[tensor].extra
        extra.update({key: tensors[value] for key, value in extra.items() if isinstance(value, Tensor)})

    def op_copy(op: Op) -> Op:
        return Op(
            op.code,
            [None if t is None else tensors[t] for t in op.inputs],
            [tensors[t] for t in op.outputs],
            None if op.options is None else dict(op.options),
            op.options_type,
            op.version,
            op.custom_code,
            op.custom_options,
            [tensors[t] for t in op.intermediates],
            dict(op.extra),
            op.origins,
        )

    return Graph(
        graph.name,
        [tensors[t] for t in graph.tensors],
        [tensors[t] for t in graph.inputs],
        [tensors[t] for t in graph.outputs],
        [op_copy(op) for op in graph.ops],
        dict(graph.extra),
    )
