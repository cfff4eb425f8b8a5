"""Edits of one subgraph that keep its invariants: what every rewrite in `octavo.passes` is made of.

An `Editor` knows who makes and who reads each tensor, and keeps that up to date while a pass works. The ops are put
back in order by `finish`. What a rewrite must never touch (graph inputs and outputs, state that is kept between
invocations, tensors that quantization has retyped) is answered here, so that no pass forgets it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from octavo.graph.model import DType, Graph, Op, Program, Tensor
from octavo.graph.queries import recorded_range

# Ops that do more than make their outputs: they are never removed, and never evaluated ahead of time.
_EFFECTS = frozenset(
    {"CALL", "CALL_ONCE", "IF", "WHILE", "CUSTOM", "ASSIGN_VARIABLE", "VAR_HANDLE", "READ_VARIABLE", "DELEGATE"}
    | {"HASHTABLE", "HASHTABLE_IMPORT", "HASHTABLE_FIND", "HASHTABLE_SIZE", "BIDIRECTIONAL_SEQUENCE_LSTM"}
    | {"UNIDIRECTIONAL_SEQUENCE_LSTM", "LSTM", "SVDF", "RNN", "UNIDIRECTIONAL_SEQUENCE_RNN", "STABLEHLO_COMPOSITE"}
    | {"BIDIRECTIONAL_SEQUENCE_RNN", "RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL", "STABLEHLO_WHILE"}
    | {"STABLEHLO_RNG_BIT_GENERATOR", "STABLEHLO_CUSTOM_CALL"}
)


def is_pure(op: Op) -> bool:
    """Whether the op's outputs depend on its inputs alone, and making them is all that it does."""
    return op.code not in _EFFECTS and not any(t is not None and t.is_variable for t in [*op.inputs, *op.outputs])


class Editor:
    """The work of one pass on one subgraph.

    Args:
      program: the whole program; its signatures follow when an output is replaced.
      graph: the subgraph to edit.
    """

    def __init__(self, program: Program, graph: Graph) -> None:
        self.program, self.graph = program, graph
        self._makers = graph.producers()
        self._readers: dict[Tensor, dict[Op, None]] = {}
        for op in graph.ops:
            self._read(op)
        self._kept = {*graph.inputs, *graph.outputs}
        for signature in program.signatures:
            if signature.graph is graph:
                self._kept.update(tensor for _, tensor in [*signature.inputs, *signature.outputs])
        self._gone: set[Op] = set()
        self._before: dict[Op, list[Op]] = {}

    # ------------------------------------------------------------ questions

    def ops(self) -> Iterator[Op]:
        """The ops of the subgraph in order, less those removed meanwhile."""
        return (op for op in list(self.graph.ops) if op not in self._gone)

    def maker(self, tensor: Tensor | None, *codes: str) -> Op | None:
        """The op that makes `tensor`, if it is one of `codes` (of any kind if none is given)."""
        op = None if tensor is None else self._makers.get(tensor)
        return op if op is not None and (not codes or op.code in codes) else None

    def readers(self, tensor: Tensor) -> list[Op]:
        return list(self._readers.get(tensor, {}))

    def is_border(self, tensor: Tensor) -> bool:
        """Whether the world outside of the subgraph knows this tensor: an input, an output, or kept state."""
        return tensor in self._kept or tensor.is_variable

    def only_reader(self, tensor: Tensor) -> Op | None:
        """The op that alone reads `tensor`, once, and nothing else sees it; else None.

        Nor does one count where a range is recorded: training rounded this tensor, so it has to stay.
        """
        readers = self._readers.get(tensor, {})
        if len(readers) != 1 or self.is_border(tensor) or recorded_range(tensor) is not None:
            return None
        op = next(iter(readers))
        return op if op.inputs.count(tensor) == 1 else None

    # ------------------------------------------------------------ edits

    def constant(self, name: str, values: np.ndarray) -> Tensor:
        """A new constant of this subgraph."""
        tensor = self.graph.add_tensor(Tensor(name, DType(values.dtype.name), ()))
        tensor.set_values(values)
        return tensor

    def tensor_like(self, tensor: Tensor, name: str, **changes: Any) -> Tensor:
        """A new computed tensor with the record of another."""
        return self.graph.add_tensor(tensor.copy(name=name, data=None, is_variable=False, extra={}, **changes))

    def set_input(self, op: Op, index: int, tensor: Tensor | None) -> None:
        """Let `op` read `tensor` as operand `index`, appending operands that it lacks."""
        self._forget(op)
        op.inputs += [None] * (index + 1 - len(op.inputs))
        op.inputs[index] = tensor
        self._read(op)

    def change(self, op: Op, code: str, inputs: list[Tensor | None], options_type: str | None = None,
               options: dict[str, Any] | None = None, version: int = 1) -> None:  # fmt: skip
        """Make `op` another op with the same outputs."""
        self._forget(op)
        if code != op.code:
            op.origins = (*op.keys[:1], *op.origins)
        op.code, op.inputs, op.options_type, op.options, op.version = code, inputs, options_type, options, version
        op.custom_code = op.custom_options = None
        op.extra = {}
        self._read(op)

    def insert_before(self, op: Op, new: Op) -> None:
        """Put a new op before `op`; what is inserted first runs first."""
        self._before.setdefault(op, []).append(new)
        self._makers.update(dict.fromkeys(new.outputs, new))
        self._read(new)

    def remove(self, op: Op) -> None:
        """Take an op away; its outputs are no longer made."""
        self._gone.add(op)
        self._forget(op)
        for tensor in op.outputs:
            if self._makers.get(tensor) is op:
                del self._makers[tensor]

    def prune(self, op: Op | None) -> None:
        """Take away an op if nobody reads what it makes, and then what only it read."""
        if op is None or op in self._gone or not is_pure(op):
            return
        if any(self.readers(tensor) or self.is_border(tensor) for tensor in op.outputs):
            return
        makers = [self.maker(tensor) for tensor in op.inputs]
        self.remove(op)
        for maker in makers:
            self.prune(maker)

    def bypass(self, op: Op, source: Tensor | None = None) -> bool:
        """Take `op` away, whose first output equals `source` (its first input by default); False if it has to stay.

        It has to stay where it stands between two tensors that the outside knows.
        """
        source = source if source is not None else op.inputs[0]
        target = op.outputs[0]
        assert source is not None
        if target.is_variable or source.is_variable:
            return False
        if not self.is_border(target):
            self.remove(op)
            for reader in self.readers(target):
                self._swap(reader, target, source)
            return True
        maker = self._makers.get(source)
        if maker is None or self.is_border(source):
            return False
        # The public name stays: the op before makes the output, and whoever read `source` reads it there.
        target.extra = {**source.extra, **target.extra}  # the range that training recorded
        self.merge(op, maker, source)
        for reader in self.readers(source):
            self._swap(reader, source, target)
        return True

    def merge(self, gone: Op, host: Op, made: Tensor | None = None) -> None:
        """Take `gone` away; `host` makes the first output of it, instead of `made` (by default an input of it).

        `host` still answers to the names of both.
        """
        old = made or next(tensor for tensor in host.outputs if tensor in gone.inputs)
        host.origins = (*host.keys, *gone.keys)
        self.remove(gone)
        host.outputs[host.outputs.index(old)] = gone.outputs[0]
        self._makers.pop(old, None)
        self._makers[gone.outputs[0]] = host

    def finish(self) -> None:
        """Write the ops back in order and forget what nobody mentions any longer."""
        ops: list[Op] = []
        self._emit(self.graph.ops, ops.append)
        self.graph.ops = ops
        self.graph.drop_unused_tensors()

    def _emit(self, ops: list[Op], put: Callable[[Op], None]) -> None:
        for op in ops:
            self._emit(self._before.get(op, []), put)
            if op not in self._gone:
                put(op)

    def _swap(self, op: Op, old: Tensor, new: Tensor) -> None:
        self._forget(op)
        op.inputs[:] = [new if tensor is old else tensor for tensor in op.inputs]
        self._read(op)

    def _read(self, op: Op) -> None:
        for tensor in op.inputs:
            if tensor is not None:
                self._readers.setdefault(tensor, {})[op] = None

    def _forget(self, op: Op) -> None:
        for tensor in op.inputs:
            if tensor is not None:
                self._readers.get(tensor, {}).pop(op, None)


def float_values(tensor: Tensor | None) -> np.ndarray | None:
    """The numbers of a plain float32 constant; None for anything else (computed, sparse, another type)."""
    plain = tensor is not None and tensor.is_constant and tensor.dtype is DType.FLOAT32
    if not plain or tensor is None or tensor.extra.get("sparsity") is not None:
        return None
    return tensor.values


def int_values(tensor: Tensor | None) -> np.ndarray | None:
    """The numbers of an integer constant without a scale; None for anything else."""
    if tensor is None or not tensor.is_constant or tensor.dtype not in (DType.INT32, DType.INT64):
        return None
    return tensor.values


def has_static_shape(tensor: Tensor) -> bool:
    """Whether every dimension is known when the file is written."""
    return (tensor.has_rank or bool(tensor.shape)) and not any(n < 0 for n in tensor.shape_signature or ())
