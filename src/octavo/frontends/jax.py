"""A JAX function -> `Program`: `jax.export` makes StableHLO, `stablehlo.lower` makes a `.tflite` file of it.

Arrays that the function closes over (its parameters) become constants. `trace` and `lower` are what the Keras frontend
uses too: for it a model is a function with named inputs. The two can be done in different processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.errors import ConversionError, MissingDependencyError, OctavoError
from octavo.frontends import batch as batching
from octavo.frontends import naming, stablehlo
from octavo.frontends.inputs import Input, input_specs
from octavo.graph import Program
from octavo.text import first_line


def convert(
    fn: Callable[..., Any],
    inputs: Any,
    *,
    batch: int | None = 1,
    name: str | None = None,
) -> Program:
    """Convert a function of arrays that JAX can trace.

    Args:
      fn: takes arrays, returns an array or a tuple, list or dict of them (nested too).
      inputs: one entry per argument, in order, or a dict of argument name -> entry (then `fn` is called by keyword).
        An entry is a shape, (shape, dtype), a `jax.ShapeDtypeStruct` or an example array; float32 unless it says
        otherwise. A shape may start with None: the batch.
      batch: what stands for a leading None; None keeps it dynamic in the file, where the function allows.
      name: what messages and the program call it; the function's own name unless given.

    Returns:
      The program; inputs are named as the function's arguments, outputs after the keys of the dict that it returns
      (`a`, nested: `a_b`), else `output_0`, `output_1`, ...

    Raises:
      ConversionError: the inputs don't fit the function, JAX can't trace it, or LiteRT has no op for a part of it.
      MissingDependencyError: JAX or litert-converter isn't installed.
    """
    where = name or getattr(fn, "__name__", type(fn).__name__)
    specs, by_keyword = input_specs(fn, inputs, where)

    def call(*arrays: Any) -> Any:
        if by_keyword:
            return fn(**{spec.name: array for spec, array in zip(specs, arrays, strict=True)})
        return fn(*arrays)

    return trace_and_lower(call, specs, batch=batch, where=where)


@dataclass(frozen=True)
class Traced:
    """A function at one batch size.

    Attributes:
      artifact: it as a StableHLO portable artifact, with its weights.
      inputs, outputs: their names, in order.
      scope: a name scope around everything, to be left out of the tensors' names.
    """

    artifact: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scope: str = ""


def trace_and_lower(fn: Callable[..., Any], specs: Sequence[Input], *, batch: int | None, where: str) -> Program:
    """Trace a function of positional arrays and lower it; see `convert` for the arguments and errors."""
    return lower(trace(fn, specs, batch=batch, where=where), where)


def trace(
    fn: Callable[..., Any],
    specs: Sequence[Input],
    *,
    batch: int | None,
    where: str,
    output_names: Sequence[str] | None = None,
    scope: str = "",
) -> Iterator[Traced]:
    """Trace a function of positional arrays, at every batch size that `lower` needs; see `convert`.

    Args:
      output_names: for the outputs, flattened; made from the structure that the function returns unless given.
      scope: a name scope around everything, left out of the tensors' names.
    """
    for size in batching.sizes(specs, batch, where):
        exported = _export(fn, specs, size, where)
        names = list(output_names) if output_names is not None else _output_names(exported.out_tree)
        if len(names) != len(exported.out_avals):
            raise ConversionError(
                f"{where} has {len(exported.out_avals)} outputs for {len(names)} names: {', '.join(names)}"
            )
        if not names:
            raise ConversionError(f"{where} returns no array")
        artifact = bytes(exported.mlir_module_serialized)
        yield Traced(artifact, tuple(spec.name for spec in specs), tuple(naming.unique(names)), scope)


def lower(traced: Iterable[Traced], where: str) -> Program:
    """The program of what `trace` made."""
    return batching.joined([_lowered(one, where) for one in traced], where)


def _lowered(traced: Traced, where: str) -> Program:
    from octavo.tflite import read

    data = stablehlo.lower(traced.artifact, traced.inputs, traced.outputs, where=where)
    program = naming.name_tensors(read(data), list(traced.inputs), list(traced.outputs), traced.scope)
    program.source = where
    _leave_out_traces(program)
    return program


def _leave_out_traces(program: Program) -> None:
    """Drop what the converter writes and no runtime reads: a note to itself, and a flag that only scalars need."""
    program.metadata = [(name, data) for name, data in program.metadata if name != "keep_stablehlo_constant"]
    for tensor in program.tensors():
        tensor.has_rank = tensor.has_rank and not tensor.shape


def _export(fn: Callable[..., Any], specs: Sequence[Input], batch: int, where: str) -> Any:
    """Trace at the shapes of `specs` and a batch size."""
    try:
        import jax
        import jax.export
    except ImportError as error:
        raise MissingDependencyError(
            f'JAX is needed to convert {where} ({error}): pip install "octavo[keras]"'
        ) from error

    shapes = [tuple(batch if dim is None else dim for dim in spec.shape) for spec in specs]
    listed = ", ".join(f"{s.name} {s.dtype}{list(shape)}" for s, shape in zip(specs, shapes, strict=True))
    try:
        arguments = [
            jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(np.dtype(spec.dtype)))
            for spec, shape in zip(specs, shapes, strict=True)
        ]
        # An argument that the function ignores stays an input of the model; lowering is for the CPU wherever it runs.
        return jax.export.export(jax.jit(fn, keep_unused=True), platforms=["cpu"])(*arguments)
    except OctavoError:
        raise
    except Exception as error:  # whatever the user's function raises while it is traced
        raise ConversionError(f"JAX can't trace {where} with {listed}: {first_line(error)}") from error


def _output_names(tree: Any) -> list[str]:
    """A name for each leaf of what the function returns: its dict keys joined by `_`, else `output_<index>`."""
    import jax

    leaves = jax.tree_util.tree_flatten_with_path(jax.tree_util.tree_unflatten(tree, range(tree.num_leaves)))[0]
    names = []
    for path, index in leaves:
        keyed = path and isinstance(path[0], jax.tree_util.DictKey | jax.tree_util.GetAttrKey)
        parts = (str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", "")))) for k in path)
        names.append("_".join(parts) if keyed else f"output_{index}")
    return names
