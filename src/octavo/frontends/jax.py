"""A JAX function -> `Program`: `jax.export` makes StableHLO, `stablehlo.lower` makes a `.tflite` file of it.

Arrays that the function closes over (its parameters) become constants. `trace_and_lower` is what the Keras frontend
uses too: for it a model is a function with named inputs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.errors import ConversionError, MissingDependencyError, OctavoError
from octavo.frontends import batch as batching
from octavo.frontends import naming, stablehlo
from octavo.graph import Program

_ENTRY = "a shape, (shape, dtype), a jax.ShapeDtypeStruct or an array"


@dataclass(frozen=True)
class Input:
    """One argument of the function.

    Attributes:
      name: its name in the signature.
      shape: batch first; None there is the batch that `batch=` decides.
      dtype: NumPy's name of the element type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        dims = ", ".join("None" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name} {self.dtype}[{dims}]"


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


def input_specs(fn: Callable[..., Any], inputs: Any, where: str) -> tuple[list[Input], bool]:
    """The inputs of `convert` as a list; and whether they go to the function by keyword."""
    if inputs is None:
        raise ConversionError(f"{where}: a function needs inputs=[...], one entry per argument: {_ENTRY}")
    if isinstance(inputs, Mapping):
        entries, names, by_keyword = list(inputs.values()), [str(key) for key in inputs], True
    else:
        entries = [inputs] if is_single(inputs) else list(inputs)
        names, by_keyword = _argument_names(fn, len(entries)), False
    if not entries:
        raise ConversionError(f"{where}: inputs is empty; give one entry per argument: {_ENTRY}")
    _check_arguments(fn, names, by_keyword, where)
    return [parse_input(argument, entry, where) for argument, entry in zip(names, entries, strict=True)], by_keyword


def parse_input(name: str, entry: Any, where: str) -> Input:
    """One entry of `inputs` (see `convert`)."""
    if isinstance(entry, Input):
        return entry
    if _is_shape(entry):
        return Input(name, _dims(entry))
    if hasattr(entry, "shape") and hasattr(entry, "dtype") and all(isinstance(dim, int) for dim in entry.shape):
        return Input(name, tuple(entry.shape), np.dtype(entry.dtype).name)
    if isinstance(entry, Sequence) and len(entry) == 2 and _is_shape(entry[0]):
        try:
            return Input(name, _dims(entry[0]), np.dtype(entry[1]).name)
        except TypeError as error:
            raise ConversionError(f"{where}: input {name!r} has no usable dtype: {entry[1]!r}") from error
    raise ConversionError(f"{where}: input {name!r} must be {_ENTRY}, not {entry!r:.80}")


def is_single(inputs: Any) -> bool:
    """Whether `inputs` is one entry rather than a list of entries: a shape of sizes, or an array."""
    return hasattr(inputs, "shape") or (_is_shape(inputs) and len(inputs) > 0)


def _is_shape(entry: Any) -> bool:
    return isinstance(entry, tuple | list) and all(
        dim is None or (isinstance(dim, int | np.integer) and not isinstance(dim, bool)) for dim in entry
    )


def _dims(shape: Sequence[int | None]) -> tuple[int | None, ...]:
    return tuple(None if dim is None else int(dim) for dim in shape)


def _argument_names(fn: Callable[..., Any], count: int) -> list[str]:
    """The names of the first `count` positional arguments; `x_0`, `x_1` for `*x`, `input_0` where there is no name."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # builtins and some wrapped functions have no signature
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "input")
    start = 0 if rest == "input" else len(names)
    return [names[i] if i < len(names) else f"{rest}_{i - start}" for i in range(count)]


def _check_arguments(fn: Callable[..., Any], names: Sequence[str], by_keyword: bool, where: str) -> None:
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**dict.fromkeys(names)) if by_keyword else signature.bind(*names)
    except TypeError as error:
        raise ConversionError(f"{where}{signature} doesn't take the inputs {', '.join(names)}: {error}") from error


def trace_and_lower(
    fn: Callable[..., Any],
    specs: Sequence[Input],
    *,
    batch: int | None,
    where: str,
    output_names: Sequence[str] | None = None,
    scope: str = "",
) -> Program:
    """Trace a function of positional arrays and lower it; see `convert` for the arguments and errors.

    Args:
      output_names: for the outputs, flattened; made from the structure that the function returns unless given.
      scope: a name scope around everything, left out of the tensors' names.
    """
    if batch is not None and batch < 1:
        raise ConversionError(f"{where}: batch must be at least 1, or None to keep it dynamic; it is {batch}")
    for spec in specs:
        if None in spec.shape[1:]:
            example = tuple(1 if i == 0 else "?" if dim is None else dim for i, dim in enumerate(spec.shape))
            raise ConversionError(
                f"{where}: input {spec} leaves more than the batch open; say its sizes: "
                f"inputs={{{spec.name!r}: ({', '.join(map(str, example))})}} with a number for each ?"
            )

    def at_batch(size: int) -> Program:
        return _at_batch(fn, specs, size, where, output_names, scope)

    if batch is not None:
        return at_batch(batch)
    if all(spec.shape[:1] != (None,) for spec in specs):
        listed = ", ".join(str(spec) for spec in specs)
        raise ConversionError(f"{where}: batch=None needs an input whose shape starts with None; it has {listed}")
    return batching.merge(at_batch, where)


def _at_batch(
    fn: Callable[..., Any],
    specs: Sequence[Input],
    batch: int,
    where: str,
    output_names: Sequence[str] | None,
    scope: str,
) -> Program:
    """The program for one batch size."""
    from octavo.tflite import read

    exported = _export(fn, specs, batch, where)
    names = list(output_names) if output_names is not None else _output_names(exported.out_tree)
    if len(names) != len(exported.out_avals):
        raise ConversionError(
            f"{where} has {len(exported.out_avals)} outputs for {len(names)} names: {', '.join(names)}"
        )
    if not names:
        raise ConversionError(f"{where} returns no array")
    inputs, outputs = [spec.name for spec in specs], naming.unique(names)
    data = stablehlo.lower(exported, inputs, outputs, where=where)
    program = naming.name_tensors(read(data), inputs, outputs, scope)
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


def first_line(error: Exception) -> str:
    """An exception's kind and the first line of its text that says something; Keras colours and introduces its own."""
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in str(error).splitlines()]
    telling = (line for line in lines if line and not line.startswith("Exception encountered when calling"))
    return f"{type(error).__name__}: {next(telling, '')}"[:300]


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
