"""`.tflite` bytes in and out: nothing is lost, nothing grows, nothing damaged gets through."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo import tflite
from octavo.errors import GraphError, ModelFileError
from octavo.graph import DType, Graph, Op, Program, Signature, Tensor, raw_bytes
from octavo.graph.verify import verify
from octavo.qtypes import QParams
from octavo.tflite import schema
from octavo.tflite.files import write_whole
from octavo.tflite.schema import Kind

CONV_OPTIONS = {"padding": 0, "strideW": 1, "strideH": 1, "fusedActivationFunction": 1}
POOL_OPTIONS = {"padding": 1, "strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2}


def constant(name: str, values: Any, **rest: Any) -> Tensor:
    array = np.asarray(values)
    return Tensor(name, DType(array.dtype.name), array.shape, raw_bytes(array), **rest)


def runnable(seed: int = 0) -> Program:
    """Convolution, pooling, reshape, fully connected: LiteRT runs it. The two biases are equal, in two arrays."""
    random = np.random.default_rng(seed)
    x = Tensor("x", DType.FLOAT32, (1, 8, 8, 2), shape_signature=(-1, 8, 8, 2))
    weight = constant("weight", random.standard_normal((4, 3, 3, 2), np.float32))
    bias = constant("bias", np.arange(4, dtype=np.float32))
    conv = Tensor("conv", DType.FLOAT32, (1, 8, 8, 4))
    pool = Tensor("pool", DType.FLOAT32, (1, 4, 4, 4))
    shape = constant("shape", np.array([1, 64], np.int32))
    flat = Tensor("flat", DType.FLOAT32, (1, 64))
    matrix = constant("matrix", random.standard_normal((4, 64), np.float32))
    same_bias = constant("same_bias", np.arange(4, dtype=np.float32))
    y = Tensor("y", DType.FLOAT32, (1, 4))
    ops = [
        Op("CONV_2D", [x, weight, bias], [conv], CONV_OPTIONS, "Conv2DOptions", version=1),
        Op("MAX_POOL_2D", [conv], [pool], POOL_OPTIONS, "Pool2DOptions"),
        Op("RESHAPE", [pool, shape], [flat], {"newShape": [1, 64]}, "ReshapeOptions"),
        Op("FULLY_CONNECTED", [flat, matrix, same_bias], [y], {}, "FullyConnectedOptions"),
    ]
    tensors = [x, weight, bias, conv, pool, shape, flat, matrix, same_bias, y]
    graph = Graph("main", tensors, [x], [y], ops)
    return Program([graph], [Signature("serving_default", [("in", x)], [("out", y)], graph)])


def run(model: bytes | Path, x: np.ndarray) -> bytes:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model) if isinstance(model, bytes) else Interpreter(model_path=str(model))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tobytes()


def sparse_tensor() -> Tensor:
    generated = schema.module()
    sparsity = generated.SparsityParametersT()
    dense, rows = generated.DimensionMetadataT(), generated.DimensionMetadataT()
    segments, indices = generated.Uint8VectorT(), generated.Uint16VectorT()
    segments.values, indices.values = np.array([0, 1, 2], np.uint8), np.array([3, 1], np.uint16)
    dense.denseSize, rows.format = 2, 1
    rows.arraySegmentsType, rows.arraySegments, rows.arrayIndicesType, rows.arrayIndices = 3, segments, 2, indices
    sparsity.traversalOrder, sparsity.dimMetadata = np.array([0, 1], np.int32), [dense, rows]
    return Tensor("sparse", DType.FLOAT32, (2, 4), raw_bytes(np.ones(2, np.float32)), extra={"sparsity": sparsity})


def rich() -> Program:
    """A bit of everything that a file can hold; not meant to run."""
    generated = schema.module()
    program = runnable()
    main = program.main
    x, weight = main.tensors[:2]
    scales = constant("block scales", np.ones((2, 1), np.float16))
    details = {"type": "BlockwiseQuantization", "blockSize": 32, "zeroPoints": 0, "blockShape": None}
    blocks = {"quantization": {"details": details}}
    recorded = {"min": np.array([-1], np.float32), "max": np.array([2], np.float32)}
    variant = generated.VariantSubTypeT()
    variant.shape, variant.hasRank = np.array([2], np.int32), True
    int4 = Tensor("int4", DType.INT4, (3,), np.array([0x21, 0x03], np.uint8), QParams.per_tensor(0.5))
    per_channel = constant("w8", np.zeros((4, 2), np.int8), qparams=QParams(np.arange(1, 5), np.zeros(4), 0))
    odd_axis = constant("odd", np.zeros((1, 2), np.int8), qparams=QParams.per_tensor(0.5, 3))
    odd_axis.extra["quantization"] = {"quantizedDimension": 1}
    more = [
        scales,
        Tensor("blockwise", DType.INT4, (2, 32), np.zeros(32, np.uint8), extra={**blocks, "scales": scales}),
        Tensor("state", DType.FLOAT32, (1, 4), is_variable=True, extra={"quantization": recorded}),
        Tensor("shares weight", DType.FLOAT32, weight.shape, weight.data),
        Tensor("", DType.FLOAT32, (), has_rank=False, extra={"absent": ("name", "shape")}),
        Tensor("", DType.VARIANT, (), shape_signature=(), extra={"variantTensors": [variant], "externalBuffer": 7}),
        Tensor("odd name \udcff é", DType.BFLOAT16, (0,)),
        *(sparse_tensor(), int4, per_channel, odd_axis),
    ]
    made = [Tensor(f"made {n}", DType.INT8, (1,), qparams=QParams.per_tensor(0.1, -5)) for n in range(4)]
    main.tensors += more + made
    body_in, body_out = Tensor("in", DType.BOOL, (1,)), Tensor("out", DType.BOOL, (1,))
    body = Graph("body", [body_in, body_out], [body_in], [body_out], [Op("LOGICAL_NOT", [body_in], [body_out])])
    custom = {"custom_code": "Mine", "custom_options": np.arange(200, dtype=np.uint8)}
    attributes = np.arange(1, 4, dtype=np.uint8)
    composite = {"name": "octavo.mark", "decompositionSubgraphIndex": 1, "compositeAttributes": attributes}
    main.ops += [
        Op("CUSTOM", [x, None, more[0]], [made[0]], version=2, **custom, extra={"debugMetadataIndex": 4}),
        Op("CUSTOM", [x], [made[1]], custom_code="Empty", custom_options=np.empty(0, np.uint8)),
        Op("STABLEHLO_COMPOSITE", [x], [made[2]], composite, "StableHLOCompositeOptions"),
        Op("WHILE", [x], [made[3]], {"condSubgraphIndex": 1, "bodySubgraphIndex": 1}, "WhileOptions", 3),
        Op("ADD", [x, x], [], None, "AddOptions", intermediates=[more[2]]),
    ]
    main.ops[-1].extra["mutatingVariableInputs"] = np.array([True, False])
    program.graphs.append(body)
    program.signatures.append(Signature("second", [("b", body_in)], [], body))
    program.metadata = [("min_runtime_version", raw_bytes(np.arange(16, dtype=np.uint8))), ("", np.empty(0, np.uint8))]
    program.metadata += [("same bytes as a constant", weight.data)]  # type: ignore[list-item]
    group, external = generated.ExternalBufferGroupT(), generated.ExternalBufferT()
    group.name, external.id, external.length, external.packing = b"weights.bin", 7, 99, b"raw"
    program.extra = {"externalBufferGroups": [group], "externalBuffers": [external]}
    program.extra["metadataBuffer"] = [raw_bytes(np.arange(3, dtype=np.uint8)), np.empty(0, np.uint8)]
    program.description = "made by hand"
    return program


def plain(value: Any, numbers: dict[Tensor, Any]) -> Any:
    """Anything in a program as lists, bytes and numbers that `==` can compare; tensors as (graph, index)."""
    if isinstance(value, Tensor):
        return numbers[value]
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value).tolist()
    if isinstance(value, QParams):
        return value.key
    if isinstance(value, dict):
        return {key: plain(item, numbers) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, numbers) for item in value]
    if type(value).__module__.endswith("schema_py_generated"):
        return {"type": type(value).__name__, **plain(vars(value), numbers)}
    return value


def contents(program: Program) -> Any:
    numbers = {t: (g, n) for g, graph in enumerate(program.graphs) for n, t in enumerate(graph.tensors)}

    def record(thing: Any, names: Any) -> Any:
        return {name: plain(getattr(thing, name), numbers) for name in names if name not in ("graph", "source")}

    graphs = [
        {
            "tensors": [record(tensor, Tensor.__slots__) for tensor in graph.tensors],
            "ops": [record(op, Op.__slots__) for op in graph.ops],
            **record(graph, ("name", "inputs", "outputs", "extra")),
        }
        for graph in program.graphs
    ]
    signatures = [
        (s.key, program.graphs.index(s.graph), plain(s.inputs, numbers), plain(s.outputs, numbers))
        for s in program.signatures
    ]
    return graphs, signatures, record(program, ("metadata", "description", "version", "extra"))


def with_all_options(program: Program) -> Program:
    """What a program looks like once read: options with every field, defaults too."""
    program = program.clone()
    for op in program.ops():
        if op.options_type and op.options is not None:
            op.options = {**vars(getattr(schema.module(), op.options_type + "T")()), **op.options}
    return program


def generated(program: bytes) -> Any:
    return schema.module().ModelT.InitFromPackedBuf(program)


def packed(model: Any) -> bytes:
    """The model as flatbuffers' own code writes it: nothing shared, nothing aligned."""
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_everything_survives():
    program = rich()
    once = tflite.write(program)
    again = tflite.read(once)
    assert contents(again) == contents(with_all_options(program))
    assert tflite.write(again) == once
    assert contents(again.clone()) == contents(again)


def test_same_outputs_bit_for_bit():
    x = np.random.default_rng(1).standard_normal((1, 8, 8, 2)).astype(np.float32)
    first = tflite.write(runnable())
    assert run(tflite.write(tflite.read(first)), x) == run(first, x)
    assert run(tflite.write(runnable(seed=1)), x) != run(first, x)


@pytest.mark.parametrize("union", ["BuiltinOptions", "BuiltinOptions2"])
def test_every_options_table_survives(union: str):
    filled = {Kind.SCALAR: 1, Kind.STRING: "text", Kind.VECTOR: np.array([1, 0, 1])}
    x, y = Tensor("x", DType.INT8, (1,)), [Tensor("y", DType.INT8, (1,)) for _ in schema.values(union)]
    ops = []
    for kind, made in zip(sorted(set(schema.values(union)) - {"NONE"}), y, strict=False):
        fields = schema.layout(kind)
        assert {field.attribute for field in fields} == set(vars(getattr(schema.module(), kind + "T")()))
        options = {f.attribute: 0 if "ubgraph" in f.attribute else filled[f.kind] for f in fields}
        ops.append(Op("ADD", [x], [made], options, kind))
    program = Program([Graph("", [x, *y], [x], [], ops)])
    for op in ops:
        if "branchSubgraphIndices" in op.options:
            op.options["branchSubgraphIndices"] = [0]
    assert len(ops) > 20
    assert contents(tflite.read(tflite.write(program)))[0][0]["ops"] == contents(program)[0][0]["ops"]


def test_every_builtin_op_survives():
    codes = schema.values("BuiltinOperator")
    x, made = Tensor("x", DType.INT8, (1,)), {code: Tensor(code, DType.INT8, (1,)) for code in codes}
    ops = [Op(code, [x], [tensor], version=2) for code, tensor in made.items()]
    data = tflite.write(Program([Graph("", [x, *made.values()], [x], [], ops)]))
    assert [op.code for op in tflite.read(data).ops()] == list(codes)
    for record, (code, value) in zip(generated(data).operatorCodes, codes.items(), strict=True):
        assert (record.deprecatedBuiltinCode, record.builtinCode) == (min(value, 127), value), code


def test_both_unions_of_options_survive():
    model = generated(tflite.write(runnable()))
    op = model.subgraphs[0].operators[3]
    op.builtinOptions2Type, op.builtinOptions2 = 23, schema.module().StablehloCaseOptionsT()
    op.builtinOptions2.branchSubgraphIndices = np.array([0], np.int32)
    again = generated(tflite.write(tflite.read(packed(model)))).subgraphs[0].operators[3]
    assert again.builtinOptions2.branchSubgraphIndices.tolist() == [0]
    assert again.builtinOptionsType == op.builtinOptionsType


def test_constants_are_stored_once_and_aligned():
    data = tflite.write(rich())
    model = generated(data)
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    contents = [buffer.data.tobytes() for buffer in model.buffers[1:] if buffer.data is not None and buffer.data.size]
    assert len(contents) == len(set(contents))
    for buffer in model.buffers[1:]:
        if buffer.data.size:
            assert (buffer.data.__array_interface__["data"][0] - start) % 16 == 0
    assert model.buffers[0].data is None
    tensors = {tensor.name: tensor for tensor in model.subgraphs[0].tensors}
    assert tensors[b"bias"].buffer == tensors[b"same_bias"].buffer > 0
    assert tensors[b"weight"].buffer == tensors[b"shares weight"].buffer == model.metadata[2].buffer
    assert tensors[b"x"].buffer == tensors[b"conv"].buffer == 0
    assert tensors[b"conv"].quantization is None


def test_equal_checksums_do_not_share():
    from octavo.tflite.builder import BufferPool

    pool = BufferPool()
    first = np.frombuffer(b"plumless", np.uint8)
    second = np.frombuffer(b"buckeroo", np.uint8)  # the same CRC-32
    assert pool.index(first) == pool.index(first.copy()) == 1
    assert pool.index(second) == 2


def test_file_never_grows():
    model = generated(tflite.write(rich()))
    wasteful = packed(model)
    assert len(tflite.write(tflite.read(wasteful))) < len(wasteful)
    assert contents(tflite.read(tflite.write(tflite.read(wasteful)))) == contents(tflite.read(wasteful))


def test_constants_are_views(tmp_path: Path):
    data = tflite.write(runnable())
    source = np.frombuffer(data, np.uint8)
    for tensor in tflite.read(data).tensors():
        if tensor.data is not None:
            assert np.shares_memory(tensor.data, source)
            assert not tensor.data.flags.writeable
    tflite.save(runnable(), tmp_path / "m.tflite")
    program = tflite.read(tmp_path / "m.tflite")
    tensors = {tensor.name: tensor for tensor in program.tensors()}
    assert tensors["bias"].data is tensors["same_bias"].data
    assert not any(t.data.flags.owndata for t in program.tensors() if t.data is not None)
    tflite.save(program, tmp_path / "m.tflite")  # over the file that is mapped
    assert contents(tflite.read(tmp_path / "m.tflite")) == contents(program)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_bytes_of_every_kind(wrap: Callable[[bytes], Any]):
    data = tflite.write(rich())
    assert contents(tflite.read(wrap(data))) == contents(tflite.read(data))


def test_constants_outside_of_the_flatbuffer(tmp_path: Path):
    path = tmp_path / "outside.tflite"
    size = tflite.save(rich(), path, external_threshold=1000)
    data = path.read_bytes()
    assert data == tflite.write(rich(), external_threshold=1000)
    assert size == len(data)
    model = generated(data)
    outside = [buffer for buffer in model.buffers if buffer.size]
    assert outside
    assert all(buffer.offset % 16 == 0 and buffer.data is None for buffer in outside)
    assert all(model.buffers[entry.buffer].size == 0 for entry in model.metadata)
    custom = model.subgraphs[0].operators[4]
    assert custom.customOptions is None
    assert custom.largeCustomOptionsSize == 200
    assert contents(tflite.read(path)) == contents(tflite.read(tflite.write(rich())))
    x = np.ones((1, 8, 8, 2), np.float32)
    tflite.save(runnable(), path, external_threshold=0)
    assert run(path, x) == run(tflite.write(runnable()), x)
    assert run(path.read_bytes(), x) == run(path, x)


def test_appended_label_files_survive():
    data = io.BytesIO()
    data.write(packed(generated(tflite.write(runnable()))))
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
        archive.writestr("more.txt", "x" * 100)
        archive.comment = b"labels"
    again = tflite.write(tflite.read(data.getvalue()))
    assert len(again) < len(data.getvalue())
    with zipfile.ZipFile(io.BytesIO(again)) as archive:
        assert archive.read("labels.txt") == b"cat\ndog\n"
        assert archive.testzip() is None
    end = again.rindex(b"PK\5\6")
    size, start = struct.unpack_from("<2I", again, end + 12)
    assert start + size == end, "offsets count from the start of the whole file"
    assert tflite.write(tflite.read(again)) == again


def test_blockwise_scales_follow_their_tensor():
    program = tflite.read(tflite.write(rich())).clone()
    program.main.tensors.insert(0, Tensor("new", DType.INT8, (1,)))
    program.main.outputs.append(next(t for t in program.main.tensors if t.name == "blockwise"))
    program.main.drop_unused_tensors()
    program.main.inputs.clear()
    again = tflite.read(tflite.write(program))
    blockwise = next(t for t in again.main.tensors if t.name == "blockwise")
    assert blockwise.extra["scales"].name == "block scales"
    assert "zeroPoints" not in blockwise.extra


def test_stale_dimension_is_dropped():
    tensor = constant("odd", np.zeros(2, np.int8), qparams=QParams.per_tensor(0.5))
    tensor.extra["quantization"] = {"quantizedDimension": 3}
    again = tflite.read(tflite.write(Program([Graph("", [tensor])])))
    assert "quantization" not in again.main.tensors[0].extra


def test_save_is_all_or_nothing(tmp_path: Path):
    path = tmp_path / "m.tflite"
    assert tflite.save(runnable(), path) == path.stat().st_size
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match="exists already"):
        tflite.save(rich(), path, overwrite=False)
    broken = runnable()
    broken.main.tensors.pop()
    with pytest.raises(GraphError, match="doesn't list"):
        tflite.save(broken, path)

    def interrupted():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, interrupted(), overwrite=True)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.tflite"]
    with pytest.raises(ModelFileError, match="doesn't exist"):
        tflite.save(runnable(), tmp_path / "none" / "m.tflite")
    with pytest.raises(ModelFileError, match="folder"):
        tflite.save(runnable(), tmp_path)


def _zip64(files: dict[str, bytes], start: int, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """An archive for byte `start` of a file, all its offsets in zip64 fields."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
    file = io.BytesIO(bytes(start))
    with zipfile.ZipFile(file, "a") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    monkeypatch.undo()
    return file.getvalue()[start:]


def test_label_files_in_a_zip64_archive_survive(monkeypatch) -> None:
    model = tflite.write(Program([Graph("main")], description="with labels"))
    files = {"labels.txt": b"cat\ndog\n", "other.txt": b"x" * 100}
    packed = _zip64(files, len(model), monkeypatch)
    assert b"PK\x06\x06" in packed and b"PK\x06\x07" in packed
    program = tflite.read(model + packed)
    program.description = "a longer description, which moves the archive further back"
    again = tflite.write(program)
    assert len(again) != len(model + packed)
    with zipfile.ZipFile(io.BytesIO(again)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == files
    assert tflite.write(tflite.read(again)) == again


@pytest.mark.parametrize("byte", [b"PK\x01\x02", b"PK\x03\x04", b"PK\x06\x06"])
def test_a_damaged_archive_is_named_not_dropped(byte: bytes, monkeypatch) -> None:
    model = tflite.write(Program([Graph("main")]))
    packed = _zip64({"labels.txt": b"cat"}, len(model), monkeypatch)
    with pytest.raises(ModelFileError, match=r"zip archive behind the model .* is damaged"):
        tflite.read(model + packed.replace(byte, b"PK??"))


def _zip_of(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "{}")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"0 bytes"),
        (b"\0" * 4, "not a .tflite model"),
        (b"\x1c\0\0\0TFL2" + b"\0" * 40, "b'TFL2' where b'TFL3'"),
        (_zip_of("metadata.json"), r"\.keras"),
        (_zip_of("archive/data.pkl"), "PyTorch"),
        (_zip_of("x"), "zip"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 40, "HDF5"),
        (b"\x08\x07\x12\x07pytorch", "ONNX"),
        (b"\x08\x01\x12\xff\x01saved_model_main_op", "SavedModel"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"\x1c\0\0\0TFL3" + b"\xff" * 40, "damaged"),
    ],
)
def test_other_files_are_named(data: bytes, message: str, tmp_path: Path):
    path = tmp_path / "strange.tflite"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=rf"strange\.tflite: .*{message}") as caught:
        tflite.read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelFileError, match=f"^given: .*{message}"):
        tflite.read(data, name="given")


def test_missing_file_and_folders(tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"gone\.tflite: no such file"):
        tflite.read(tmp_path / "gone.tflite")
    with pytest.raises(ModelFileError, match="a folder"):
        tflite.read(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    with pytest.raises(ModelFileError, match="SavedModel folder"):
        tflite.read(str(tmp_path))
    with pytest.raises(ModelFileError, match="path or bytes, not int"):
        tflite.read(3)  # type: ignore[arg-type]


def _set(path: str, value: Any) -> Callable[[Any], None]:
    """A change to the generated model: "subgraphs.0.inputs" = value."""

    def change(model: Any) -> None:
        *way, last = path.split(".")
        for step in way:
            model = model[int(step)] if step.isdigit() else getattr(model, step)
        setattr(model, last, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("subgraphs", []), "no subgraph"),
        (_set("subgraphs.0.inputs", [99]), "an input of subgraph 0 has index 99, but the file has 10"),
        (_set("subgraphs.0.outputs", [-1]), "an output of subgraph 0 has index -1"),
        (_set("subgraphs.0.operators.1.inputs", [10]), r"an input of op 1 \(MAX_POOL_2D\)"),
        (_set("subgraphs.0.operators.1.outputs", [-1]), r"an output of op 1 \(MAX_POOL_2D\)"),
        (_set("subgraphs.0.operators.0.opcodeIndex", 9), "code of op 0"),
        (_set("subgraphs.0.operators.0.intermediates", [77]), "an intermediate of op 0"),
        (_set("subgraphs.0.tensors.1.buffer", 50), "the buffer of tensor 1 'weight'"),
        (_set("subgraphs.0.tensors.1.type", 100), "element type 100"),
        (_set("subgraphs.0.tensors.0.shape", [1, -8, 8, 2]), "impossible shape"),
        (_set("subgraphs.0.tensors.0.shape", [2**31 - 1] * 3), "impossible shape"),
        (_set("subgraphs.0.tensors.0.shape", [1] * 70), "rank 70"),
        (_set("subgraphs.0.tensors.1.shape", [5, 3, 3, 2]), r"'weight' has 288 bytes, but .* takes 360"),
        (_set("operatorCodes.0.builtinCode", 9999), "operator code 9999 is unknown"),
        (_set("signatureDefs.0.subgraphIndex", 3), "signature 'serving_default'"),
        (_set("signatureDefs.0.inputs.0.tensorIndex", 30), "signature 'serving_default'"),
        (_set("metadata", [schema.module().MetadataT(name=b"m", buffer=40)]), "metadata 'm'"),
        (_set("metadataBuffer", [41]), "metadata_buffer has index 41"),
        (_set("buffers.1", None), ""),
    ],
)
def test_inconsistent_files(change: Callable[[Any], None], message: str):
    model = generated(tflite.write(runnable()))
    if not message:
        model.buffers[1].data, model.buffers[1].offset, model.buffers[1].size = None, 64, 1 << 40
        message = "buffer 1 ends at byte"
    else:
        change(model)
    with pytest.raises(ModelFileError, match=f"^model: .*{message}"):
        tflite.read(packed(model))


def test_refuses_wrong_order_and_cycles():
    model = generated(tflite.write(runnable()))
    model.subgraphs[0].operators.reverse()
    with pytest.raises(ModelFileError, match="reads tensor 'flat' before it is made"):
        tflite.read(packed(model))
    model = generated(tflite.write(runnable()))
    model.subgraphs[0].operators[1].inputs = model.subgraphs[0].operators[1].outputs
    with pytest.raises(ModelFileError, match=r"'pool' before it is made .*cycle"):
        tflite.read(packed(model))


def test_refuses_unknown_options_and_subgraphs():
    model = generated(tflite.write(runnable()))
    model.subgraphs[0].operators[0].builtinOptionsType = 250
    with pytest.raises(ModelFileError, match="builtinOptions is of kind 250"):
        tflite.read(packed(model))
    model = generated(tflite.write(rich()))
    model.subgraphs[0].operators[7].builtinOptions.bodySubgraphIndex = 2
    with pytest.raises(ModelFileError, match=r"\(WHILE\) .* refers to subgraph 2, but the file has 2"):
        tflite.read(packed(model))


def test_refuses_scales_without_zero_points():
    model = generated(tflite.write(rich()))
    tensor = next(t for t in model.subgraphs[0].tensors if t.name == b"w8")
    tensor.quantization.zeroPoint = np.zeros(3, np.int64)
    with pytest.raises(ModelFileError, match=r"'w8' .* 4 scale\(s\) but 3 zero point\(s\)"):
        tflite.read(packed(model))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"options": {"strideW": 1, "pitch": 2}}, ModelFileError, "CONV_2D 'conv': Conv2DOptions has no field 'pitch'"),
        ({"options": {"strideW": 2**40}}, ModelFileError, "option strideW can't be"),
        ({"options": {"strideW": "two"}}, ModelFileError, "option strideW can't be 'two'"),
        ({"options_type": "NewOptions"}, ModelFileError, "no options table 'NewOptions'"),
        ({"code": "CONV_9D"}, ModelFileError, "no op 'CONV_9D'"),
        ({"inputs": [Tensor("stranger", DType.INT8, ())]}, GraphError, "mentions tensor 'stranger'"),
    ],
)
def test_refuses_to_write(change: dict[str, Any], error: type[Exception], message: str):
    program = runnable()
    for name, value in change.items():
        setattr(program.main.ops[0], name, value)
    with pytest.raises(error, match=message):
        tflite.write(program)


def test_vector_options_keep_their_element_type():
    program = runnable()
    program.main.ops[2].options = {"newShape": np.array([1, 64], np.int64)}  # int32 in the schema
    assert tflite.read(tflite.write(program)).main.ops[2].option("newShape").tolist() == [1, 64]
    program.main.ops[2].options = {"newShape": [1, 2**40]}
    with pytest.raises(ModelFileError, match="newShape"):
        tflite.write(program)


SAMPLE = tflite.write(rich())


def read_or_refuse(data: bytes) -> ModelFileError | None:
    """Damaged bytes give a program, or an error of one line; soon."""
    start, refused = time.perf_counter(), None
    try:
        tflite.read(data)
    except ModelFileError as error:
        refused = error
    assert time.perf_counter() - start < 2
    assert "\n" not in str(refused)
    return refused


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(SAMPLE) - 1))
def test_truncated_files(size: int):
    read_or_refuse(SAMPLE[:size])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 4), st.binary(min_size=1, max_size=4)), min_size=1, max_size=30))
def test_damaged_files(changes: list[tuple[int, bytes]]):
    data = bytearray(SAMPLE)
    for position, value in changes:
        data[position : position + len(value)] = value
    read_or_refuse(bytes(data))


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 0x00100000])
def test_absurd_lengths_cost_no_memory(length: int):
    """Words all over the file become absurd lengths and offsets."""
    tflite.read(SAMPLE)
    refused = 0
    tracemalloc.start()
    try:
        for position in range(8 + 4 * (length % 11), len(SAMPLE) - 3, 44):
            data = bytearray(SAMPLE)
            struct.pack_into("<I", data, position, length)
            refused += read_or_refuse(bytes(data)) is not None
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert refused > 20


def test_tables_that_are_shared_without_end():
    """3,000 subgraphs of 3,000 tensors, all of them one and the same table: 9 million in 25 kB."""
    generated, builder = schema.module(), flatbuffers.Builder(1 << 16)
    tensor = generated.TensorT().Pack(builder)
    generated.SubGraphStartTensorsVector(builder, 3000)
    for _ in range(3000):
        builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    generated.SubGraphStart(builder)
    generated.SubGraphAddTensors(builder, tensors)
    graph = generated.SubGraphEnd(builder)
    generated.ModelStartSubgraphsVector(builder, 3000)
    for _ in range(3000):
        builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    generated.ModelStart(builder)
    generated.ModelAddSubgraphs(builder, graphs)
    builder.Finish(generated.ModelEnd(builder), file_identifier=b"TFL3")
    refused = read_or_refuse(bytes(builder.Output()))
    assert "SubGraph.tensors has 3000 tables, more than the file can hold" in str(refused)


def test_zeros():
    """A megabyte of zeros behind a valid start: every offset leads to itself."""
    assert read_or_refuse(b"\x10\0\0\0TFL3" + b"\0" * (1 << 20)) is not None


def test_samples_hold_the_invariants():
    verify(runnable())
    verify(tflite.read(tflite.write(runnable())))
