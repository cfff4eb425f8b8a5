"""Let a running model show every float tensor that it computes, in branches too.

The copy that runs gives out every float tensor as an output. Tensors inside the branches of an IF are handed out
through the IF: both branches must have as many outputs, so each gives placeholders for what the other shows, and the
condition tells which to believe. An output has one value, and the body of a WHILE computes many: after the model ran,
its loops run once more by themselves, turn by turn, from what the model handed them (`octavo.calibrate.loops`).

A custom op that LiteRT hasn't got can't run, nor can what depends on it; the rest can, and is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from octavo.calibrate.data import InputSpec
from octavo.calibrate.loops import Loop, called_by, can_step
from octavo.errors import RunError
from octavo.graph import DType, Graph, Op, Program, Signature, Tensor
from octavo.passes.drop_dead import called_graphs
from octavo.recurrent import Watch, watchable
from octavo.runtime.all_cores import on_all_cores
from octavo.tflite import write

_KEY = "octavo_calibrate"


@dataclass(frozen=True)
class _Shown:
    """A tensor of the original program, where the copy's present subgraph has its values, and when they count.

    Attributes:
      source: the tensor of the original.
      here: its value in the copy.
      guards: (condition in the copy, value that it must have).
    """

    source: Tensor
    here: Tensor
    guards: tuple[tuple[Tensor, bool], ...] = ()


class Window:
    """One entry point of a program, running with everything shown.

    Args:
      program: a float model.
      signature: the entry point; None is the main subgraph without a signature.
      graph: a subgraph that is no entry point, in place of `signature`.

    Raises:
      RunError: LiteRT can't run it, even without custom ops.
    """

    def __init__(self, program: Program, signature: Signature | None = None, graph: Graph | None = None) -> None:
        graph = graph or (program.main if signature is None else signature.graph)
        try:
            self._open(program, graph, signature, without_custom=False)
        except RunError:
            if not any(op.code == "CUSTOM" for op in graph.ops):
                raise
            self._open(program, graph, signature, without_custom=True)
        self.specs = [InputSpec(p.name, p.shape_signature, p.dtype) for p in self.session.inputs]
        self.graph = graph
        self._states = [Watch(op) for op in _with_branches(program, graph) if watchable(op)]
        self._loops = [
            Loop(op, *(Window(program, graph=called) for called in called_by(program, op)))
            for op in _with_branches(program, graph)
            if op.code == "WHILE" and can_step(program, op)
        ]
        keeps_state = any(t.is_variable for t in program.tensors())
        keeps_state |= any(op.code == "VAR_HANDLE" for op in program.ops())
        resized = any(size < 0 for spec in self.specs for size in spec.shape)
        self._can_show_memory = not (self._states or self._loops or keeps_state or resized)

    @property
    def watched(self) -> list[Tensor]:
        """The float tensors whose values it can show."""
        own = [shown.source for shown in self._shown if shown.source.dtype is DType.FLOAT32]
        own += [watch.tensor for watch in self._states]
        return own + [tensor for loop in self._loops for tensor in loop.body.watched]

    def runs(
        self, sample: Sequence[np.ndarray], anew: bool = True, views: bool = False
    ) -> Iterator[dict[Tensor, np.ndarray]]:
        """Run once; the values of each float tensor that this run computes, by tensor of the original program.

        One dict for the run, then one for each turn of each of its loops.

        Args:
          sample: one array per input.
          anew: whether the model's state starts anew; else it goes on from the run before.
          views: the arrays may be LiteRT's own memory, which saves copies: to be let go of before the next run.
        """
        values = self.run(sample, anew, views and self._can_show_memory)
        for watch in self._states:
            values.update(watch.values(values, anew))
        return self.show(values)

    def show(self, values: Mapping[Tensor, np.ndarray]) -> Iterator[dict[Tensor, np.ndarray]]:
        """What `runs` gives, from what `run` gave."""
        yield {tensor: array for tensor, array in values.items() if tensor.dtype is DType.FLOAT32}
        for loop in self._loops:
            yield from loop.turns(values)

    def run(self, sample: Sequence[np.ndarray], anew: bool = True, views: bool = False) -> dict[Tensor, np.ndarray]:
        """Run once; the values of everything shown, of other types too: what loops are handed and what is given out."""
        if anew:
            self.session.reset()
        self.session.resize([array.shape for array in sample])
        results = dict(zip(self._outputs, self.session.invoke(sample, views), strict=True))
        return {
            shown.source: results[shown.here]
            for shown in self._shown
            if all(bool(results[condition].reshape(-1)[0]) == wanted for condition, wanted in shown.guards)
        }

    def _open(self, program: Program, graph: Graph, signature: Signature | None, without_custom: bool) -> None:
        copy = program.clone()
        sources = dict(zip(copy.tensors(), program.tensors(), strict=True))
        own = copy.graphs[program.graphs.index(graph)]
        if without_custom:
            _cut_custom(own)
        self._shown = _show(copy, own, sources)
        made = {*own.inputs, *(tensor for op in own.ops for tensor in op.outputs)}
        self._shown += [_Shown(sources[t], t) for t in own.outputs if t in made and t.dtype.numpy is not None]
        conditions = [condition for shown in self._shown for condition, _ in shown.guards]
        self._outputs = list(dict.fromkeys([*(shown.here for shown in self._shown), *conditions]))
        own.outputs = self._outputs
        twins = {source: twin for twin, source in sources.items()}
        inputs = [(name, twins[t]) for name, t in (_named(graph.inputs) if signature is None else signature.inputs)]
        outputs = [(str(index), tensor) for index, tensor in enumerate(self._outputs)]
        copy.signatures = [s for s in copy.signatures if s.graph is not own]
        copy.signatures.append(Signature(_KEY, inputs, outputs, own))
        main = own is copy.main
        self.session = on_all_cores(write(copy), None if main else _KEY, program.source or None)


def _with_branches(program: Program, graph: Graph) -> Iterator[Op]:
    """The ops of a subgraph and of the branches that it may take."""
    for op in graph.ops:
        yield op
        if op.code == "IF":
            for index in called_graphs(op.options):
                yield from _with_branches(program, program.graphs[index])


def entries(program: Program) -> dict[str, Signature | None]:
    """One entry point for each subgraph that has any, by signature key; the main subgraph's may have none ("")."""
    found: dict[Graph, Signature | None] = {program.main: None}
    for signature in program.signatures:
        if found.get(signature.graph) is None:
            found[signature.graph] = signature
    return {"" if signature is None else signature.key: signature for signature in found.values()}


def _show(program: Program, graph: Graph, sources: dict[Tensor, Tensor]) -> list[_Shown]:
    """What `graph` of the copy can show: its own float tensors, what it hands to loops, and those of its branches."""
    computed = [tensor for op in graph.ops for tensor in op.outputs]
    floats = [t for t in [*graph.inputs, *computed] if t.dtype is DType.FLOAT32]
    handed = [t for op in graph.ops if op.code == "WHILE" for t in op.inputs if t is not None]
    own = [t for t in dict.fromkeys([*floats, *handed]) if t.dtype.numpy is not None and not t.is_constant]
    shown = [_Shown(sources[tensor], tensor) for tensor in own]
    for op in graph.ops:
        if op.code == "IF":
            shown += _through_if(program, graph, op, sources)
    return shown


def _through_if(program: Program, graph: Graph, op: Op, sources: dict[Tensor, Tensor]) -> list[_Shown]:
    branches = [program.graphs[op.option(key)] for key in ("thenSubgraphIndex", "elseSubgraphIndex")]
    condition = op.inputs[0]
    callers = [index for other in program.ops() for index in called_graphs(other.options)]
    alone = all(callers.count(program.graphs.index(branch)) == 1 for branch in branches)
    if condition is None or not alone:
        return []
    shown = []
    for branch, other, wanted in ((branches[0], branches[1], True), (branches[1], branches[0], False)):
        inner = _show(program, branch, sources)
        lifted: dict[Tensor, Tensor] = {}
        for tensor in dict.fromkeys(t for s in inner for t in (s.here, *(guard for guard, _ in s.guards))):
            outside = graph.add_tensor(tensor.copy(name=f"{op.name}/{tensor.name}", data=None, is_variable=False))
            placeholder = other.add_tensor(Tensor("placeholder", tensor.dtype, ()))
            placeholder.set_values(np.zeros((), tensor.dtype.numpy))
            branch.outputs.append(tensor)
            other.outputs.append(placeholder)
            op.outputs.append(outside)
            lifted[tensor] = outside
        for s in inner:
            guards = ((condition, wanted), *((lifted[guard], value) for guard, value in s.guards))
            shown.append(_Shown(s.source, lifted[s.here], guards))
    return shown


def _cut_custom(graph: Graph) -> None:
    """Take away custom ops and all that depends on them."""
    lost: set[Tensor] = set()
    kept = []
    for op in graph.ops:
        if op.code == "CUSTOM" or any(tensor in lost for tensor in op.inputs):
            lost.update(op.outputs)
        else:
            kept.append(op)
    graph.ops = kept


def _named(tensors: list[Tensor]) -> list[tuple[str, Tensor]]:
    """The tensors by their names in the file, made unique."""
    names: dict[str, Tensor] = {}
    for tensor in tensors:
        name = tensor.name or "input"
        while name in names:
            name += "_"
        names[name] = tensor
    return list(names.items())
