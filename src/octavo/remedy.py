"""What is done where eight bits turn out to be too few: measured on samples, and kept only if it helps.

A quantized model is run on a few of the calibration samples and held against the float one. If its worst output has
less than 18 dB (an error of an eighth), two things are tried in this order, until it has:

1. Channels are leveled (`octavo.passes.level_channels`), and the model is calibrated and quantized anew. It costs
   nothing at run time. It isn't done without need: ranges in which every channel reaches the end clip more of what
   calibration didn't see.
2. With fallback to float: activations are rounded one at a time in an otherwise float model, which tells how much noise
   each of them puts on the outputs. Noise of different ones adds up, near enough; so those with the most noise for the
   arithmetic that hangs on them stay in float, with the ops that make and read them. Their weights are stored as int8.

Samples are chosen by their own bytes, so their order makes no difference.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from octavo import numerics
from octavo.calibrate.data import InputSpec
from octavo.calibrate.probes import PROBES, Probes
from octavo.calibrate.sequences import steps
from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.ops import OPS, Tie
from octavo.plan import Form, Plan
from octavo.qtypes import QParams
from octavo.runtime.all_cores import on_all_cores
from octavo.runtime.codes import from_file, to_file
from octavo.runtime.session import Session
from octavo.tflite import write
from octavo.unfold import weights_of

ENOUGH = 18.0  # dB
WORTH = 1.0  # dB that ops in float have to gain, because they cost time and bytes
_SINGLE = 3  # samples on which single activations are
_ROUNDS = 3


@dataclass(frozen=True)
class Judge:
    """The float model's outputs on a few samples.

    Attributes:
      rows: the samples, one array per input each.
      wanted: the float outputs of each.
    """

    rows: list[list[np.ndarray]]
    wanted: list[list[np.ndarray]]

    @classmethod
    def of(cls, program: Program, data: object, probes: Probes | None = None) -> Judge:
        """The judge of a float program, by what calibration kept; without that, by running it on the data.

        Raises what reading the data or running the model raises.
        """
        if probes is not None:
            kept = [probes.kept[checksum] for checksum in sorted(probes.kept)]
            return cls([row for row, _ in kept], [outputs for _, outputs in kept])
        session = on_all_cores(write(program))
        specs = [InputSpec(port.name, port.shape_signature, port.dtype) for port in session.inputs]
        rows: list[tuple[int, int, list[np.ndarray]]] = []
        for number, (sample, _) in enumerate(steps(data, specs)):
            row = [sample[spec.name] for spec in specs]
            rows.append((zlib.crc32(b"".join(array.tobytes() for array in row)), number, row))
            rows = sorted(rows, key=lambda entry: entry[0])[:PROBES]
        found = [row for _, _, row in rows]
        return cls(found, [_outputs(session, row) for row in found])

    def noise(self, program: Program, count: int = PROBES) -> np.ndarray:
        """For each output, the power of its error as a share of its own, on the first `count` samples.

        An output that isn't float, isn't finite, or is 0 throughout, has no error.
        """
        session = on_all_cores(write(program))
        made = [_outputs(session, row) for row in self.rows[:count]]
        found = []
        for index, first in enumerate(self.wanted[0]):
            power = error = 0.0
            for mine, its in zip(made, self.wanted, strict=False):
                if first.dtype.kind == "f" and np.isfinite(its[index]).all():
                    values = its[index].astype(np.float64)
                    power += float(np.sum(values**2))
                    error += float(np.sum((mine[index] - values) ** 2))
            found.append(error / power if power > 0 else 0.0)
        return np.nan_to_num(np.array(found), nan=1e9, posinf=1e9)


def _outputs(session: Session, row: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Real values in and out, whatever the file's own types are."""
    session.reset()
    session.resize([array.shape for array in row])
    pairs = zip(session.inputs, row, strict=True)
    results = session.invoke([to_file(port, values, 0, True, session.name) for port, values in pairs])
    return [from_file(port, values) for port, values in zip(session.outputs, results, strict=True)]


def in_db(noise: np.ndarray) -> float:
    """The signal to noise ratio of the worst output."""
    return float(-10 * np.log10(max(noise.max(initial=0.0), 1e-20)))


# ---------------------------------------------------------------- which activations stay in float


def sensitive(
    program: Program, plan: Plan, integer: set[Op], judge: Judge, measure: Callable[[set[Op]], np.ndarray]
) -> set[Op]:
    """The ops of the main subgraph that had better stay in float.

    Args:
      program: the float program of the plan.
      plan: what would be quantized, and how.
      integer: the ops that would be integer and may be float.
      judge: the samples.
      measure: the noise on the outputs if these ops stay in float.
    """
    graph = program.main
    rounded = _rounding(graph, plan)
    bound = {tensor: _bound_to(tensor, graph) for tensor in rounded}
    # Where one of them has to be integer, the activation is rounded whatever the others are.
    held = {op for op in graph.ops if plan.decisions[op].precision == "int8"} - integer
    bound = {tensor: ops & integer for tensor, ops in bound.items() if not ops & held}
    alone = {tensor: judge.noise(_rounded(program, tensor, rounded[tensor]), _SINGLE) for tensor in bound}
    allowed = np.full(len(judge.wanted[0]), 10 ** (-ENOUGH / 10))
    best: tuple[float, set[Op]] = (np.inf, set())
    aim = allowed.copy()
    for _ in range(_ROUNDS):
        chosen = _cover(alone, bound, aim, integer)
        noise = measure(chosen)
        best = min(best, (float((noise / allowed).max()), chosen), key=lambda entry: entry[0])
        if best[0] <= 1 or chosen == integer:
            break
        aim = aim * np.clip(allowed / np.maximum(noise, 1e-30), 0.25, 0.8)
    return best[1]


def _rounding(graph: Graph, plan: Plan) -> dict[Tensor, QParams]:
    """The float activations that the plan rounds, with their scale; not those that are only moved."""
    found = {}
    producers = graph.producers()
    for tensor in dict.fromkeys([*graph.inputs, *(tensor for op in graph.ops for tensor in op.outputs)]):
        forms = [plan.stores.get(tensor)]
        forms += [plan.wants.get((op, i)) for op in graph.ops for i, t in enumerate(op.inputs) if t is tensor]
        form = next((form for form in forms if form is not None and form.dtype is DType.INT8), None)
        maker = producers.get(tensor)
        row = None if maker is None else OPS.get(maker.code)
        moved = row is not None and row.tie is Tie.SAME and row.steps <= 0.5 and len(maker.inputs if maker else ()) == 1
        if form is not None and form.qparams is not None and tensor.dtype is DType.FLOAT32 and not moved:
            found[tensor] = form.qparams
    return found


def _rounded(program: Program, tensor: Tensor, qparams: QParams) -> Program:
    """The float program with one activation rounded."""
    copy = program.clone()
    twin = dict(zip(program.tensors(), copy.tensors(), strict=True))[tensor]
    graph = copy.main
    codes = graph.add_tensor(twin.copy(name=f"{twin.name}/codes", dtype=DType.INT8, qparams=qparams, extra={}))
    real = graph.add_tensor(twin.copy(name=f"{twin.name}/rounded", extra={}))
    for op in graph.ops:
        op.inputs = [real if operand is twin else operand for operand in op.inputs]
    graph.outputs = [real if output is twin else output for output in graph.outputs]
    for signature in copy.signatures:
        if signature.graph is graph:
            signature.outputs = [(name, real if t is twin else t) for name, t in signature.outputs]
    place = next((i + 1 for i, op in enumerate(graph.ops) if twin in op.outputs), 0)
    graph.ops[place:place] = [Op("QUANTIZE", [twin], [codes]), Op("DEQUANTIZE", [codes], [real], version=2)]
    return copy


def _bound_to(tensor: Tensor, graph: Graph) -> set[Op]:
    """The ops that must be float for an activation to stay unrounded: its maker, and its readers past moves."""
    producers, consumers = graph.producers(), graph.consumers()
    found = {producers[tensor]} if tensor in producers else set()
    frontier = [tensor]
    while frontier:
        for op in consumers.get(frontier.pop(), []):
            row = OPS.get(op.code)
            if op not in found and row is not None and row.tie is Tie.SAME:
                frontier += op.outputs
            found.add(op)
    return found


def _cover(
    alone: Mapping[Tensor, np.ndarray], bound: Mapping[Tensor, set[Op]], allowed: np.ndarray, integer: set[Op]
) -> set[Op]:
    """Greedily, the ops without whose rounding the sum of noises is allowed: most noise for least work first."""
    left, chosen = dict(alone), set[Op]()
    total = np.sum(list(left.values()), axis=0)
    base = 1e-3 * work(integer)
    while left and (total > allowed).any():
        over = total > allowed
        costs = {tensor: base + work(bound[tensor] - chosen) for tensor in left}
        gains = {tensor: float((noise[over] / allowed[over]).sum()) for tensor, noise in left.items()}
        best = max([(gains[tensor] / costs[tensor], -number, tensor) for number, tensor in enumerate(left)])[2]
        chosen |= bound[best]
        for tensor in [tensor for tensor in left if tensor is best or bound[tensor] <= chosen]:
            total = total - left.pop(tensor)
    return chosen


def work(ops: Iterable[Op]) -> float:
    """Multiplications, and one for each value that an op makes."""
    total = 0.0
    for op in ops:
        facts, made = weights_of(op), sum(tensor.size for tensor in op.outputs)
        kernel = None if facts is None else op.inputs[facts.index]
        per_value = 0 if kernel is None else kernel.size / max(op.outputs[0].shape[-1] if op.outputs[0].shape else 1, 1)
        total += made * (1 + per_value)
    return total


def borrow(program: Program, plan: Plan, ops: Sequence[Op], known: Plan) -> None:
    """Give the integer ops of a plan the weights and biases that were chosen for another plan of the same program.

    They don't depend on which other ops stay in float; the scale of an input may, and the bias is rewritten to it.

    Args:
      program, plan: what is to be completed.
      ops: those of the other plan, in the order of the program's.
      known: the other plan.
    """
    for op, twin in zip(program.ops(), ops, strict=True):
        facts = weights_of(op)
        codes = None if facts is None else known.codes.get((twin, facts.index))
        if facts is None or codes is None or plan.decisions[op].precision != "int8":
            continue
        plan.wants[op, facts.index], plan.codes[op, facts.index] = known.wants[twin, facts.index], codes
        data, weights = plan.wants[op, facts.data].qparams, known.wants[twin, facts.index].qparams
        bias = None if facts.bias is None else known.wants.get((twin, facts.bias))
        if facts.bias is None or bias is None or bias.qparams is None or data is None or weights is None:
            continue
        if (chosen := known.codes.get((twin, facts.bias))) is not None and bias.qtype is not None:
            params = numerics.bias_params(float(data.scale[0]), weights.scale)
            plan.wants[op, facts.bias] = Form(bias.dtype, params, bias.qtype)
            values = numerics.dequantize(chosen, bias.qparams)
            plan.codes[op, facts.bias] = numerics.quantize_bias(values, params, bias.qtype)
