"""`Program` -> `.tflite` bytes. The opposite of `read`, whose docstring lists what the `extra` dicts hold."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from octavo.errors import GraphError, ModelFileError
from octavo.graph import Graph, Op, Program, Signature, Tensor
from octavo.graph.constants import Deferred, blocks
from octavo.tflite import schema
from octavo.tflite.appended import rebase_zip
from octavo.tflite.builder import ALIGNMENT, BufferPool, Once, SharingBuilder, Stored
from octavo.tflite.check import IDENTIFIER
from octavo.tflite.files import write_whole
from octavo.tflite.quantization import write_quantization
from octavo.tflite.records import restore
from octavo.tflite.schema import Kind

# Offsets in a flatbuffer are 32 bits and signed in places: 2 GiB at most, less room for everything but constants.
EXTERNAL_THRESHOLD = 2**31 - 2**26
# What is smaller stays inside even so: it costs nothing, and LiteRT takes sizes 0 and 1 for placeholders.
_SMALLEST_OUTSIDE = 64

_Piece = bytes | memoryview | Stored  # of a file


def write(program: Program, external_threshold: int = EXTERNAL_THRESHOLD) -> bytes:
    """The program as the bytes of a `.tflite` file.

    Args:
      program: what to write.
      external_threshold: past this many bytes of constants they go behind the flatbuffer, where no limit holds.

    Raises:
      GraphError: an op, input, output or signature mentions a tensor that its graph doesn't list.
      ModelFileError: something that the schema can't express.
    """
    return b"".join(_stream(_pieces(program, external_threshold)))


def size(program: Program) -> int:
    """Bytes of the file that `write` and `save` make, without making it.

    Raises:
      GraphError, ModelFileError: as `write`.
    """
    return _length(_pieces(program, EXTERNAL_THRESHOLD))


def save(
    program: Program, path: str | os.PathLike, overwrite: bool = True, external_threshold: int = EXTERNAL_THRESHOLD
) -> int:
    """Write the program to a file, whole or not at all; returns the bytes written.

    Raises:
      GraphError, ModelFileError: as `write`; also if the file exists and `overwrite` is false, or can't be written.
    """
    return write_whole(Path(path), _stream(_pieces(program, external_threshold)), overwrite)


def _pieces(program: Program, external_threshold: int) -> list[_Piece]:
    """The file in parts: flatbuffer, constants inside and outside of it, an appended archive. Nothing is copied."""
    writer = _Writer(program)
    model = writer.model()
    outside = writer.move_outside() if writer.constant_bytes() > external_threshold else []
    try:
        inside = writer.constant_bytes() - sum(data.size for data, _ in outside)
        pieces = _pack(model, inside)
        if outside:
            length = _length(pieces)
            behind = list(_place(outside, length))
            pieces = _pack(model, inside)
            assert _length(pieces) == length, "real offsets take the room of the placeholders"
            pieces += behind
    except (struct.error, TypeError, ValueError, OverflowError, AttributeError, RuntimeError) as error:
        raise ModelFileError(f"{writer.label}: can't be written as .tflite: {error}") from error
    if "appendedZip" in program.extra:
        pieces.append(rebase_zip(program.extra["appendedZip"], _length(pieces)))
    return pieces


def _stream(pieces: list[_Piece]) -> Iterator[bytes | memoryview]:
    """The bytes themselves, those of large constants a block at a time."""
    for piece in pieces:
        if isinstance(piece, Deferred):
            yield from (part.data for part in piece.pieces())
        elif isinstance(piece, np.ndarray):
            yield from (part.data for _, part in blocks(piece))
        else:
            yield piece


def _length(pieces: list[_Piece]) -> int:
    return sum(len(piece) if isinstance(piece, bytes | memoryview) else piece.size for piece in pieces)


def _pack(model: Any, constant_bytes: int) -> list[_Piece]:
    # Room for the constants, their scales and the rest at once: growing would copy all, and fill the holes. What isn't
    # used takes no memory.
    builder = SharingBuilder(min(2**31, constant_bytes + constant_bytes // 2 + (1 << 24)))
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return list(builder.pieces())


def _place(outside: list[tuple[Stored, Any]], position: int) -> Iterator[_Piece]:
    """What stands behind the flatbuffer that ends at `position`, aligned; tells each record its offset."""
    for data, (record, attribute) in outside:
        padding = -position % ALIGNMENT
        setattr(record, attribute, position + padding)
        position += padding + data.size
        if padding:
            yield bytes(padding)
        yield data


class _Writer:
    """A `Program`, turned into the generated `ModelT` part by part."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.label = program.source or "the program"
        self.schema = schema.module()
        self.pool = BufferPool()
        self.codes: dict[tuple[str, str | None, int], int] = {}
        self.shared: dict[Any, Once] = {}
        self.custom_options: list[tuple[Any, np.ndarray]] = []
        self.metadata_buffers: set[int] = set()

    def model(self) -> Any:
        program, model = self.program, self.schema.ModelT()
        restore(model, program.extra)
        model.version = program.version
        model.description = program.description or None
        model.subgraphs = [self._graph(graph) for graph in program.graphs]
        model.signatureDefs = [self._signature(signature) for signature in program.signatures] or None
        model.metadata = [self._metadata(name, data) for name, data in program.metadata] or None
        model.metadataBuffer = None
        if "metadataBuffer" in program.extra:
            indexes = [self._inside(data) for data in program.extra["metadataBuffer"]]
            model.metadataBuffer = np.array(indexes, np.int32)
        model.operatorCodes = [self._code(*key) for key in self.codes]
        model.buffers = self.pool.records
        return model

    def constant_bytes(self) -> int:
        return self.pool.nbytes + sum(data.size for _, data in self.custom_options)

    def move_outside(self) -> list[tuple[Stored, Any]]:
        """Mark what goes behind the flatbuffer: its bytes, and the record and attribute that hold its offset."""
        moved: list[tuple[Stored, Any]] = []
        for index, buffer in enumerate(self.pool.records):
            # Runtimes look for metadata inside the flatbuffer only.
            if buffer.data is None or buffer.data.size < _SMALLEST_OUTSIDE or index in self.metadata_buffers:
                continue
            buffer.outside = True
            moved.append((buffer.data, (buffer, "offset")))
        for record, data in self.custom_options:
            if data.size >= _SMALLEST_OUTSIDE:
                record.customOptions, record.largeCustomOptionsSize = None, data.size
                record.largeCustomOptionsOffset = 1
                moved.append((data, (record, "largeCustomOptionsOffset")))
        return moved

    def _inside(self, data: np.ndarray) -> int:
        """The buffer of metadata; even empty bytes get one of their own, since runtimes look into it unasked."""
        index = self.pool.index(data) if data.size else self.pool.add(np.empty(0, np.uint8))
        self.metadata_buffers.add(index)
        return index

    def _metadata(self, name: str, data: np.ndarray) -> Any:
        record = self.schema.MetadataT()
        record.name, record.buffer = name, self._inside(data)
        return record

    def _code(self, code: str, custom_code: str | None, version: int) -> Any:
        record = self.schema.OperatorCodeT()
        record.builtinCode = schema.values("BuiltinOperator")[code]
        record.deprecatedBuiltinCode = min(record.builtinCode, 127)  # a signed byte; 127 says "see the other field"
        record.customCode, record.version = custom_code, version
        return record

    def _signature(self, signature: Signature) -> Any:
        if signature.graph not in self.program.graphs:
            raise GraphError(f"{self.label}: the graph of signature {signature.key!r} isn't in the program")
        numbers = {tensor: number for number, tensor in enumerate(signature.graph.tensors)}

        def maps(pairs: list[tuple[str, Tensor]]) -> list[Any]:
            records = []
            for name, tensor in pairs:
                record = self.schema.TensorMapT()
                record.name = name
                record.tensorIndex = self._number(tensor, numbers, f"signature {signature.key!r}")
                records.append(record)
            return records

        record = self.schema.SignatureDefT()
        record.signatureKey, record.subgraphIndex = signature.key, self.program.graphs.index(signature.graph)
        record.inputs, record.outputs = maps(signature.inputs), maps(signature.outputs)
        return record

    def _number(self, tensor: Tensor, numbers: dict[Tensor, int], where: str) -> int:
        if tensor not in numbers:
            raise GraphError(f"{self.label}: {where} mentions tensor {tensor.name!r}, which its graph doesn't list")
        return numbers[tensor]

    def _graph(self, graph: Graph) -> Any:
        numbers = {tensor: number for number, tensor in enumerate(graph.tensors)}
        record = self.schema.SubGraphT()
        restore(record, graph.extra)
        record.name = _text(graph, graph.name, "name")
        record.tensors = [self._tensor(tensor, numbers) for tensor in graph.tensors]
        record.inputs = _indexes([self._number(t, numbers, "the graph's inputs") for t in graph.inputs])
        record.outputs = _indexes([self._number(t, numbers, "the graph's outputs") for t in graph.outputs])
        record.operators = [self._op(op, numbers) for op in graph.ops]
        return record

    def _tensor(self, tensor: Tensor, numbers: dict[Tensor, int]) -> Any:
        record = self.schema.TensorT()
        restore(record, {key: value for key, value in tensor.extra.items() if key != "quantization"})
        record.name = _text(tensor, tensor.name, "name")
        bare = not tensor.shape and "shape" in tensor.extra.get("absent", ())
        record.shape = None if bare else _indexes(tensor.shape)
        record.type = schema.values("TensorType")[tensor.dtype.name]
        record.buffer = self.pool.index(tensor.stored)
        where = f"the quantization of {tensor.name!r}"
        quantization = write_quantization(tensor, lambda other: self._number(other, numbers, where))
        record.quantization = None if quantization is None else self._once(quantization)
        record.isVariable, record.hasRank = tensor.is_variable, tensor.has_rank
        record.shapeSignature = None if tensor.shape_signature is None else _indexes(tensor.shape_signature)
        return record

    def _op(self, op: Op, numbers: dict[Tensor, int]) -> Any:
        where = f"op {op.name}"
        if op.code not in schema.values("BuiltinOperator"):
            raise ModelFileError(f"{self.label}: {where}: the installed schema has no op {op.code!r}")
        record = self.schema.OperatorT()
        restore(record, op.extra)
        record.opcodeIndex = self.codes.setdefault((op.code, op.custom_code, op.version), len(self.codes))
        record.inputs = _indexes([-1 if t is None else self._number(t, numbers, where) for t in op.inputs])
        record.outputs = _indexes([self._number(t, numbers, where) for t in op.outputs])
        if op.intermediates:
            record.intermediates = _indexes([self._number(t, numbers, where) for t in op.intermediates])
        if op.options_type is not None:
            self._options(record, op.options_type, op.options, where)
        if "otherOptions" in op.extra:
            options_type, options = op.extra["otherOptions"]
            self._options(record, options_type, options, where)
        if op.custom_options is not None:
            record.customOptions = np.ascontiguousarray(op.custom_options).reshape(-1).view(np.uint8)
            self.custom_options.append((record, record.customOptions))
        return record

    def _options(self, record: Any, options_type: str, options: dict[str, Any] | None, where: str) -> None:
        union = schema.options_union(options_type)
        if union is None:
            raise ModelFileError(f"{self.label}: {where}: the schema has no options table {options_type!r}")
        attribute = union[0].lower() + union[1:]
        setattr(record, attribute + "Type", schema.values(union)[options_type])
        if options is None:
            return
        table = getattr(self.schema, options_type + "T")()
        fields = {field.attribute: field for field in schema.layout(options_type)}
        for key, value in options.items():
            if key not in fields:
                raise ModelFileError(f"{self.label}: {where}: {options_type} has no field {key!r}")
            try:
                setattr(table, key, _field_value(fields[key], value))
            except (TypeError, ValueError, OverflowError) as error:
                raise ModelFileError(f"{self.label}: {where}: option {key} can't be {value!r}: {error}") from None
        setattr(record, attribute, self._once(table))

    def _once(self, table: Any) -> Once:
        """The table, wrapped; equal tables of plain values (no tables in them) share one."""
        parts = [_key(value) for value in vars(table).values()]
        if None in parts:
            return Once(table)
        return self.shared.setdefault((type(table), *parts), Once(table))


def _key(value: Any) -> Any:
    """A hashable stand-in for a field's value; None if it has none."""
    if value is None:
        return ("absent",)
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.tobytes())
    # repr tells 0.0 from -0.0, and True from 1.
    return repr(value) if isinstance(value, int | float | str | bytes) else None


def _field_value(field: schema.Field, value: Any) -> Any:
    """An option as the generated code wants it: arrays of the schema's element type, scalars within its range."""
    if value is None:
        return None
    if field.kind is Kind.VECTOR:
        given = np.asarray(value)
        target = np.dtype(_numpy_type(field))
        array = given.astype(target)
        if given.size and not np.array_equal(array, given, equal_nan=target.kind == "f"):
            raise ValueError(f"the schema keeps it as {target}")
        return array
    if field.kind is Kind.SCALAR:
        from flatbuffers import number_types

        value = value.item() if isinstance(value, np.generic) else value
        number_types.enforce_number(value, field.flags)
    return value


def _numpy_type(field: schema.Field) -> Any:
    from flatbuffers import number_types

    return number_types.to_numpy_type(field.flags)


def _indexes(numbers: Any) -> np.ndarray:
    return np.array(list(numbers), np.int32)


def _text(owner: Graph | Tensor, text: str, field: str) -> str | None:
    """The string to write; None for an empty one that the file left out."""
    return None if not text and field in owner.extra.get("absent", ()) else text
