"""Run a float model on representative data and note the range of every tensor.

The copy that runs gives out every float tensor as an output: that way the runtime's fastest kernels can be used and
still nothing inside is hidden or overwritten. One sample is in memory at a time.
"""

from __future__ import annotations

from typing import Any

from octavo.calibrate.data import InputSpec, count_hint, samples
from octavo.calibrate.observers import MinMax
from octavo.graph import DType, Program, Signature, Tensor
from octavo.progress import track
from octavo.runtime.session import Session
from octavo.tflite import write


def collect(program: Program, data: Any, progress: bool = False) -> dict[Tensor, tuple[float, float]]:
    """Lowest and highest value of each float tensor of the main subgraph over `data`.

    Args:
      program: a float model.
      data: representative samples in any shape that `calibrate.data.samples` takes.
      progress: show a progress bar.

    Returns:
      tensor -> (low, high), for inputs and computed tensors. The order of samples makes no difference.

    Raises:
      DataError: unusable samples; names the input and the sample.
      RunError: the runtime can't run the model.
    """
    watched = _watched(program)
    session = Session(write(_exposed(program, watched)))
    specs = [InputSpec(p.name, p.shape_signature, p.dtype) for p in session.inputs]
    seen = {tensor: MinMax() for tensor in watched}
    for sample in track(samples(data, specs), "calibrating", count_hint(data, specs), progress):
        arrays = [sample[p.name] for p in session.inputs]
        session.resize([array.shape for array in arrays])
        outputs = session.invoke(arrays)
        for tensor, values in zip(watched, outputs, strict=True):
            seen[tensor].update(values)
        session.reset()
    return {tensor: observed.range for tensor, observed in seen.items() if observed.range is not None}


def _watched(program: Program) -> list[Tensor]:
    """Inputs and computed tensors of the main subgraph that hold floats."""
    graph = program.main
    computed = [tensor for op in graph.ops for tensor in op.outputs]
    return [t for t in dict.fromkeys([*graph.inputs, *computed]) if t.dtype is DType.FLOAT32]


def _exposed(program: Program, watched: list[Tensor]) -> Program:
    """A copy of `program` whose main subgraph gives out `watched`."""
    copy = program.clone()
    twins = dict(zip(program.main.tensors, copy.main.tensors, strict=True))
    outputs = [twins[tensor] for tensor in watched]
    inputs = [(name, twins[tensor]) for name, tensor in _named_inputs(program)]
    copy.main.outputs = outputs
    others = [signature for signature in copy.signatures if signature.graph is not copy.main]
    named = [(f"{index}", tensor) for index, tensor in enumerate(outputs)]
    copy.signatures = [Signature("calibrate", inputs, named, copy.main), *others]
    return copy


def _named_inputs(program: Program) -> list[tuple[str, Tensor]]:
    """The main subgraph's inputs by the names that its signature, or else the file, gives them."""
    for signature in program.signatures:
        if signature.graph is program.main:
            return signature.inputs
    names: dict[str, Tensor] = {}
    for tensor in program.main.inputs:
        name = tensor.name
        while name in names:
            name += "_"
        names[name] = tensor
    return list(names.items())
