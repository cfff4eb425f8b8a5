"""One-op models from the samples of the op table."""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Graph, Op, Program, Signature, Tensor
from octavo.model import Model
from octavo.ops import Act, Const, Ints, Row
from octavo.runtime.session import Session
from octavo.versions import lowest_version


def build(row: Row, seed: int = 0) -> Program:
    """The float model of a row's sample: activations are inputs, the rest are constants."""
    assert row.sample is not None
    rng = np.random.default_rng(seed)
    tensors = [None if spec is None else _tensor(f"in{i}", spec, rng) for i, spec in enumerate(row.sample.operands)]
    outputs = [Tensor(f"out{i}", DType(dtype), ()) for i, dtype in enumerate(row.sample.results)]
    options = dict(row.sample.options) if row.options_type else None
    op = Op(row.name, list(tensors), outputs, options, row.options_type)
    op.version = lowest_version(op) or 1
    present = [t for t in tensors if t is not None]
    inputs = [t for t in present if not t.is_constant]
    graph = Graph("main", [*present, *outputs], inputs, outputs, [op])
    named = ([(t.name, t) for t in inputs], [(t.name, t) for t in outputs])
    program = Program([graph], [Signature("serving_default", *named, graph)])
    for tensor, port in zip(outputs, Session(bytes(Model(program)), kernels="builtin").outputs, strict=True):
        tensor.shape = port.shape
    return program


def _tensor(name: str, spec: Act | Const | Ints, rng: np.random.Generator) -> Tensor:
    if isinstance(spec, Act):
        return Tensor(name, DType.FLOAT32, spec.shape)
    if isinstance(spec, Const):
        values = rng.uniform(spec.low, spec.high, spec.shape).astype(np.float32)
    else:
        values = np.array(spec.values, spec.dtype)
    tensor = Tensor(name, DType(values.dtype.name), values.shape)
    if not isinstance(spec, Ints) or spec.constant:
        tensor.set_values(values)
    return tensor


def feed(row: Row, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random inputs for `build(row)` by name; the first and last element of an activation sit at its bounds."""
    assert row.sample is not None
    arrays: dict[str, np.ndarray] = {}
    for index, spec in enumerate(row.sample.operands):
        if isinstance(spec, Act):
            values = rng.uniform(spec.low, spec.high, spec.shape).astype(np.float32)
            if values.size > 1:
                values.flat[0], values.flat[-1] = spec.low, spec.high
            arrays[f"in{index}"] = values
        elif isinstance(spec, Ints) and not spec.constant:
            arrays[f"in{index}"] = np.array(spec.values, spec.dtype)
    return arrays
