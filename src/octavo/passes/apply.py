"""Carry out a `Plan`: store each tensor in its form, and convert where an op wants another.

Algebra: none; every conversion that the plan asks for is a QUANTIZE or DEQUANTIZE op (or new bytes, for a constant).
A conversion is made once per tensor and form, right before its first reader.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from octavo import numerics
from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.graph.constants import Deferred, blocks
from octavo.graph.model import raw_bytes
from octavo.ops import OPS
from octavo.passes.split_activations import split_activations
from octavo.plan import FLOAT, FLOAT16, Form, Plan
from octavo.qtypes import QParams
from octavo.versions import settle_versions

_LARGE = 1 << 20  # bytes; larger constants are converted when the file is written
_Key = tuple[Tensor, DType, object]


def apply(program: Program, plan: Plan) -> None:
    """Edit `program` in place as `plan` says. The plan must have been made for this very program."""
    for graph in program.graphs:
        _Rewriter(program, graph, plan).run()
    split_activations(program, lambda op: any(t is not None and "scales" in t.extra for t in op.inputs))
    settle_versions(program)


class _Rewriter:
    """The work on one subgraph."""

    def __init__(self, program: Program, graph: Graph, plan: Plan) -> None:
        self.program, self.graph, self.plan = program, graph, plan
        self.ops: list[Op] = []
        self.made: dict[_Key, Tensor] = {}
        # The float record of each tensor, taken before any is retyped: constants convert from their float values.
        self.floats = {tensor: tensor.copy() for tensor in graph.tensors}

    def run(self) -> None:
        for tensor in self.graph.tensors:
            form = self.plan.stores.get(tensor)
            if form is not None:
                self._store(tensor, form)
        for op in self.graph.ops:
            self._rewrite(op)
            self.ops.append(op)
        for index, tensor in enumerate(self.graph.outputs):
            self._output(index, tensor)
        self.graph.ops = self.ops
        self.graph.drop_unused_tensors()

    def _store(self, tensor: Tensor, form: Form) -> None:
        """Retype a tensor where it stands; a constant gets its new bytes."""
        if tensor in self.plan.codes:
            self._store_codes(tensor, self.plan.codes[tensor], form)
        elif tensor.is_constant:
            self._fill(tensor, self.floats[tensor], form)
        else:
            tensor.dtype, tensor.qparams = form.dtype, form.qparams

    def _fill(self, target: Tensor, source: Tensor, form: Form) -> None:
        if source.nbytes >= _LARGE:
            target.data = _deferred(source, form)
            target.dtype, target.qparams = form.dtype, form.qparams
            self._scales(target, form)
        elif form == FLOAT16:
            target.set_values(numerics.to_float16(source.values))
        else:
            self._store_codes(target, _codes(source.values, form), form)

    def _store_codes(self, tensor: Tensor, codes: np.ndarray, form: Form) -> None:
        """Make `tensor` a constant of `codes`, two to a byte if they are int4."""
        tensor.set_values(codes, form.dtype)
        if form.dtype is DType.INT4:
            tensor.data = numerics.pack_int4(codes)
        tensor.qparams = form.qparams
        self._scales(tensor, form)

    def _scales(self, tensor: Tensor, form: Form) -> None:
        """The scales of blocks are a constant of their own, one for each block: (..., blocks)."""
        if not form.block or form.qparams is None:
            return
        scales = self.graph.add_tensor(Tensor(f"{tensor.name}/scales", DType.FLOAT16, ()))
        scales.set_values(form.qparams.scale.reshape(*tensor.shape[:-1], -1).astype(np.float16))
        details = {"type": "BlockwiseQuantization", "zeroPoints": -1, "blockSize": form.block}
        tensor.qparams = None
        tensor.extra = {**tensor.extra, "quantization": {"details": details}, "scales": scales}

    def _rewrite(self, op: Op) -> None:
        for index, tensor in enumerate(op.inputs):
            wanted = self.plan.wants.get((op, index))
            if tensor is not None and wanted is not None:
                op.inputs[index] = self._in_form(op, index, tensor, wanted)
        if op in self.plan.intermediates:
            op.intermediates = [self._inside(op, index, form) for index, form in enumerate(self.plan.intermediates[op])]
        if op in self.plan.options:
            op.options = {**(op.options or {}), **self.plan.options[op]}
            op.options_type = op.options_type or OPS[op.code].options_type

    def _inside(self, op: Op, index: int, form: Form) -> Tensor:
        """A tensor that only carries a scale into a recurrent op."""
        name = f"{op.outputs[0].name}/inside{index}"
        return self.graph.add_tensor(Tensor(name, form.dtype, (0,), qparams=form.qparams))

    def _in_form(self, op: Op, index: int, tensor: Tensor, wanted: Form) -> Tensor:
        stored = self.plan.stores.get(tensor, FLOAT)
        own = (op, index) in self.plan.codes
        codes = self.plan.codes.get((op, index) if own else tensor)
        key = (tensor, wanted.dtype, (op, index) if own else wanted.qparams)
        if key in self.made:
            return self.made[key]
        if _same(stored, wanted):
            return tensor
        if tensor.is_constant and wanted != FLOAT:
            made = self.graph.add_tensor(self.floats[tensor].copy())
            if codes is None:
                self._fill(made, self.floats[tensor], wanted)
            else:
                self._store_codes(made, codes, wanted)
        else:
            made = self._convert(tensor, wanted)
        self.made[key] = made
        return made

    def _convert(self, tensor: Tensor, wanted: Form) -> Tensor:
        """A QUANTIZE or DEQUANTIZE op from `tensor` as stored to `wanted`; returns what it makes."""
        made = tensor.copy(
            name=f"{tensor.name}/{wanted.dtype.value}", dtype=wanted.dtype, qparams=wanted.qparams, data=None,
            is_variable=False, extra={},
        )  # fmt: skip
        self.graph.add_tensor(made)
        kind = "DEQUANTIZE" if wanted.dtype is DType.FLOAT32 else "QUANTIZE"
        self.ops.append(Op(kind, [tensor], [made]))
        return made

    def _output(self, index: int, tensor: Tensor) -> None:
        wanted = self.plan.outputs.get((self.graph, tensor))
        stored = self.plan.stores.get(tensor, FLOAT)
        if wanted is None or _same(stored, wanted):
            return
        key = (tensor, wanted.dtype, wanted.qparams)
        made = self.made.get(key) or self._convert(tensor, wanted)
        self.made[key] = made
        self.graph.outputs[index] = made
        if tensor not in self.graph.inputs:  # the public name belongs to what the model gives out
            tensor.name, made.name = f"{tensor.name}/{stored.dtype.value}", tensor.name
        for signature in self.program.signatures:
            if signature.graph is self.graph:
                signature.outputs = [(name, made if t is tensor else t) for name, t in signature.outputs]


def _codes(values: np.ndarray, form: Form, run: slice = slice(None)) -> np.ndarray:
    """The codes of a constant, or of the `run` of its first axis that `values` holds."""
    qparams = form.qparams
    assert qparams is not None and form.qtype is not None
    if form.block:
        each = values[:1].size // form.block
        start, end = ((run.start or 0) * each, None if run.stop is None else run.stop * each)
        some = QParams(qparams.scale[start:end], qparams.zero_point[start:end], 0)
        return numerics.quantize(values.reshape(-1, form.block), some, form.qtype).reshape(values.shape)
    if qparams.axis == 0:
        qparams = QParams(qparams.scale[run], qparams.zero_point[run], 0)
    convert = numerics.quantize_bias if form.qtype.bits >= 32 else numerics.quantize
    return convert(values, qparams, form.qtype)


def _deferred(source: Tensor, form: Form) -> Deferred:
    """The bytes of a constant in its form, made when the file is written: a model may be larger than memory."""
    bits = 16 if form.qtype is None else 4 if form.dtype is DType.INT4 else form.qtype.bits
    params = form.qparams and (form.qparams.scale.tobytes(), form.qparams.zero_point.tobytes(), form.qparams.axis)
    key = (form.dtype, form.qtype, params, source.shape)
    return Deferred((source.size * bits + 7) // 8, lambda: _blockwise(source, form), source.data, key)


def _blockwise(source: Tensor, form: Form) -> Iterator[np.ndarray]:
    for run, values in blocks(source.values):
        if form == FLOAT16:
            yield raw_bytes(numerics.to_float16(values))
        else:
            codes = _codes(values, form, run)
            yield numerics.pack_int4(codes) if form.dtype is DType.INT4 else raw_bytes(codes)


def _same(a: Form, b: Form) -> bool:
    return a.dtype is b.dtype and a.qparams == b.qparams
