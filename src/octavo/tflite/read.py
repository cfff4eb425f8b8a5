"""`.tflite` bytes -> `Program`.

Whatever the IR has no named field for is carried in the `extra` dicts, under the schema's own names:

- `Tensor.extra`: `sparsity`, `variantTensors`, `externalBuffer`; `quantization`, `scales` and `zeroPoints` are told in
  `octavo.tflite.quantization`.
- `Op.extra`: `customOptionsFormat`, `mutatingVariableInputs`, `debugMetadataIndex`; `otherOptions`, a (type, fields)
  pair, where an op fills both unions of options.
- `Graph.extra`: `debugMetadataIndex`.
- `Program.extra`: `externalBufferGroups`, `externalBuffers`; `metadataBuffer`, the constants of that old list;
  `appendedZip`, the label files behind the model (`octavo.tflite.appended`).

`absent`, on tensors and graphs, names the strings and shapes that the file leaves out where an empty one would differ.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from octavo.errors import ModelFileError
from octavo.graph import Graph, Op, Program, Signature, Tensor
from octavo.graph.verify import check_constant_sizes, check_order
from octavo.tflite import schema
from octavo.tflite.appended import find_zip
from octavo.tflite.check import IDENTIFIER, LayoutError, check_layout
from octavo.tflite.files import Source, describe, open_source
from octavo.tflite.quantization import read_quantization, resolve_details
from octavo.tflite.records import absent, decoded, ints, is_empty, leftovers, pick

MAX_ELEMENTS = 1 << 48  # no machine holds such a tensor, and sizes in bytes stay far below 2**63
MAX_RANK = 64

# What the generated code raises on bytes that pass the layout check and are nonsense all the same.
_NONSENSE = (
    struct.error,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    MemoryError,
    RuntimeError,
)


def read(source: Source, name: str = "") -> Program:
    """Read a model from a path (mapped into memory: constants are views of the file) or from bytes (not copied).

    Args:
      source: path or bytes-like object; it must not be changed while the program is in use.
      name: what messages call the model; the path by default.

    Raises:
      ModelFileError: the file is missing, of another format, truncated or inconsistent.
    """
    buffer, label = open_source(source, name)
    _check_format(buffer, label)
    try:
        check_layout(buffer)
        model = schema.module().ModelT.InitFromPackedBuf(buffer)
        program = _Reader(model, buffer).program()
    except ModelFileError as error:
        raise ModelFileError(f"{label}: {error}") from None
    except LayoutError as error:
        raise ModelFileError(f"{label}: damaged or truncated: {error}") from None
    except _NONSENSE as error:
        raise ModelFileError(f"{label}: damaged: {type(error).__name__}: {error}") from error
    program.source = label
    return program


def _check_format(buffer: memoryview, label: str) -> None:
    if len(buffer) == 0:
        raise ModelFileError(f"{label}: the file is empty (0 bytes)")
    found = bytes(buffer[4:8])
    if found != IDENTIFIER:
        hint = describe(buffer) or f"bytes 4 to 7 are {found!r} where {IDENTIFIER!r} should stand"
        raise ModelFileError(f"{label}: not a .tflite model: {hint}")


class _Reader:
    """One generated `ModelT`, turned into a `Program` part by part."""

    def __init__(self, model: Any, buffer: memoryview) -> None:
        self.model = model
        self.buffer = buffer
        self.buffers = [self._bytes(index, record) for index, record in enumerate(model.buffers or [])]
        self.codes = [self._code(record) for record in model.operatorCodes or []]
        self.graph_count = len(model.subgraphs or [])

    def program(self) -> Program:
        model = self.model
        if not self.graph_count:
            raise ModelFileError("the model has no subgraph")
        graphs = [self._graph(index, record) for index, record in enumerate(model.subgraphs)]
        handled = ("version", "operatorCodes", "subgraphs", "description", "buffers", "metadata", "signatureDefs")
        extra = leftovers(model, *handled, "metadataBuffer")
        if model.metadataBuffer is not None:
            extra["metadataBuffer"] = [self._constant(int(i), "metadata_buffer") for i in model.metadataBuffer]
        archive = find_zip(self.buffer)
        if archive is not None:
            extra["appendedZip"] = np.frombuffer(archive, np.uint8)
        return Program(
            graphs,
            [self._signature(record, graphs) for record in model.signatureDefs or []],
            [self._metadata(record) for record in model.metadata or []],
            decoded(model.description),
            model.version,
            extra=extra,
        )

    def _bytes(self, index: int, record: Any) -> np.ndarray:
        """A buffer's bytes, inside the flatbuffer or (past 2 GiB) elsewhere in the file."""
        if not is_empty(record.data):
            data = record.data
        elif record.offset > 1 and record.size:  # 0 and 1 are placeholders to LiteRT's interpreter_builder.cc
            data = self._outside(record.offset, record.size, f"buffer {index}")
        else:
            data = np.empty(0, np.uint8)
        data.flags.writeable = False
        return data

    def _outside(self, offset: int, size: int, what: str) -> np.ndarray:
        if offset + size > len(self.buffer):
            raise ModelFileError(f"{what} ends at byte {offset + size} of a file of {len(self.buffer)}: truncated?")
        return np.frombuffer(self.buffer, np.uint8, size, offset)

    def _constant(self, index: int, what: str) -> np.ndarray:
        return pick(self.buffers, index, f"the buffer of {what}")

    def _code(self, record: Any) -> tuple[str, str | None, int]:
        # Ops up to 127 stand in the old field, later ones in the new; the larger is right (LiteRT's schema_utils.cc).
        value = max(record.builtinCode, record.deprecatedBuiltinCode)
        code = schema.names("BuiltinOperator").get(value)
        if code is None:
            raise ModelFileError(f"operator code {value} is unknown to the installed schema: update ai-edge-litert")
        return code, None if record.customCode is None else decoded(record.customCode), record.version

    def _metadata(self, record: Any) -> tuple[str, np.ndarray]:
        name = decoded(record.name)
        return name, self._constant(record.buffer, f"metadata {name!r}")

    def _signature(self, record: Any, graphs: list[Graph]) -> Signature:
        key = decoded(record.signatureKey)
        graph = pick(graphs, record.subgraphIndex, f"the subgraph of signature {key!r}")

        def pairs(maps: Any) -> list[tuple[str, Tensor]]:
            what = f"a tensor of signature {key!r}"
            return [(decoded(entry.name), pick(graph.tensors, entry.tensorIndex, what)) for entry in maps or []]

        return Signature(key, pairs(record.inputs), pairs(record.outputs), graph)

    def _graph(self, index: int, record: Any) -> Graph:
        where = f"subgraph {index}"
        tensors = [self._tensor(number, tensor, where) for number, tensor in enumerate(record.tensors or [])]
        for tensor, source in zip(tensors, record.tensors or [], strict=True):
            resolve_details(tensor, source, tensors)
        graph = Graph(
            decoded(record.name),
            tensors,
            [pick(tensors, i, f"an input of {where}") for i in ints(record.inputs)],
            [pick(tensors, i, f"an output of {where}") for i in ints(record.outputs)],
            [self._op(number, op, tensors, where) for number, op in enumerate(record.operators or [])],
            {**leftovers(record, "tensors", "inputs", "outputs", "operators", "name"), **absent(record, "name")},
        )
        for problem in itertools.chain(check_order(graph), check_constant_sizes(graph)):
            raise ModelFileError(f"{where}: {problem}")
        return graph

    def _tensor(self, number: int, record: Any, where: str) -> Tensor:
        name = decoded(record.name)
        what = f"tensor {number} {name!r} of {where}"
        dtype = schema.dtypes().get(record.type)
        if dtype is None:
            raise ModelFileError(f"{what} has element type {record.type}, unknown to octavo")
        shape = ints(record.shape)
        _check_shape(shape, what)
        data = self._constant(record.buffer, what)
        handled = ("shape", "type", "buffer", "name", "quantization", "isVariable", "shapeSignature", "hasRank")
        extra = {**leftovers(record, *handled), **absent(record, "name", "shape")}
        qparams = read_quantization(record.quantization, extra, what)
        signature = None if record.shapeSignature is None else ints(record.shapeSignature)
        constant = data if data.size else None
        return Tensor(name, dtype, shape, constant, qparams, signature, record.hasRank, record.isVariable, extra)

    def _op(self, number: int, record: Any, tensors: list[Tensor], where: str) -> Op:
        code, custom_code, version = pick(self.codes, record.opcodeIndex, f"the code of op {number} of {where}")
        what = f"op {number} ({custom_code or code}) of {where}"

        def picked(indexes: Any, role: str) -> list[Tensor]:
            return [pick(tensors, i, f"{role} of {what}") for i in ints(indexes)]

        inputs = [None if i == -1 else pick(tensors, i, f"an input of {what}") for i in ints(record.inputs)]
        handled = ("opcodeIndex", "inputs", "outputs", "customOptions", "intermediates")
        extra = leftovers(record, *handled, *_OPTION_FIELDS)
        tables = list(self._options(record, what))
        options_type, options = tables[0] if tables else (None, None)
        if len(tables) > 1:
            extra["otherOptions"] = tables[1]
        return Op(
            code,
            inputs,
            picked(record.outputs, "an output"),
            options,
            options_type,
            version,
            custom_code,
            self._custom_options(record, what),
            picked(record.intermediates, "an intermediate"),
            extra,
        )

    def _custom_options(self, record: Any, what: str) -> np.ndarray | None:
        if record.customOptions is None and record.largeCustomOptionsOffset > 1:
            offset, size = record.largeCustomOptionsOffset, record.largeCustomOptionsSize
            return self._outside(offset, size, f"the custom options of {what}")
        return record.customOptions

    def _options(self, record: Any, what: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Type and fields of the op's option tables; the fields are None where the file names a type only."""
        for union, kind, table in (
            ("BuiltinOptions", record.builtinOptionsType, record.builtinOptions),
            ("BuiltinOptions2", record.builtinOptions2Type, record.builtinOptions2),
        ):
            if kind == 0:
                continue
            options_type = schema.names(union).get(kind)
            if options_type is None:
                raise ModelFileError(f"{what} has options of kind {kind}, unknown to the installed schema")
            yield options_type, None if table is None else self._fields(table, what)

    def _fields(self, table: Any, what: str) -> dict[str, Any]:
        fields = {key: decoded(value) if isinstance(value, bytes) else value for key, value in vars(table).items()}
        for key, value in fields.items():
            if "subgraph" not in key.lower() or is_empty(value):
                continue
            if np.min(value) < -1 or np.max(value) >= self.graph_count:
                raise ModelFileError(f"{what} refers to subgraph {value}, but the file has {self.graph_count}")
        return fields


_OPTION_FIELDS = (
    "builtinOptionsType",
    "builtinOptions",
    "builtinOptions2Type",
    "builtinOptions2",
    "largeCustomOptionsOffset",
    "largeCustomOptionsSize",
)


def _check_shape(shape: tuple[int, ...], what: str) -> None:
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise ModelFileError(f"{what} has the impossible shape {_short(shape)}")
    elements = 1
    for size in shape:
        elements *= max(size, 1)
        if elements >= MAX_ELEMENTS:
            raise ModelFileError(f"{what} has the impossible shape {_short(shape)}")


def _short(shape: tuple[int, ...]) -> str:
    return str(list(shape[:8])) + (f"... of rank {len(shape)}" if len(shape) > 8 else "")
