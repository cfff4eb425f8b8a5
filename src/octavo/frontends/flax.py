"""A Flax NNX module -> `Program`: the module in eval mode, as a function of JAX arrays."""

from __future__ import annotations

from typing import Any

from octavo.errors import ConversionError, MissingDependencyError
from octavo.frontends import jax as jax_frontend
from octavo.frontends.inputs import input_specs
from octavo.graph import Program


def convert(module: Any, inputs: Any, *, batch: int | None = 1, name: str | None = None) -> Program:
    """Convert an instance of `flax.nnx.Module` that can be called.

    A copy of it is traced in eval mode (no dropout, batch normalization by its moving averages); the module itself
    stays as it is. Its parameters become constants.

    Args:
      module: the instance.
      inputs: one entry per argument of `__call__`; see `octavo.frontends.jax.convert`, as for `batch` and `name`.
      batch, name: as there.

    Raises:
      ConversionError: a Linen module, one that can't be called, one that keeps state when it predicts, or as there.
      MissingDependencyError: JAX or litert-converter isn't installed.
    """
    where = name or f"Flax module {type(module).__name__}"
    try:
        from flax import nnx
    except ImportError as error:
        raise MissingDependencyError(
            f'Flax and JAX are needed to convert {where} ({error}): pip install "octavo[flax]"'
        ) from error
    if not isinstance(module, nnx.Module):
        raise ConversionError(
            f"{where} isn't a flax.nnx.Module; of a Linen module, convert the function lambda x: model.apply(params, x)"
        )
    if not callable(module):
        raise ConversionError(f"{where} has no __call__; pass the method that predicts, as a function")
    specs, by_keyword = input_specs(module, inputs, where)
    # eval_mode has no copy of its own in older Flax: split and merge make one.
    graph, state = nnx.split(module)
    prediction = nnx.merge(graph, state)
    prediction.eval()
    graph, state = nnx.split(prediction)
    before = _variables(nnx, prediction)

    def call(*arrays: Any) -> Any:
        model = nnx.merge(graph, state, copy=True)  # variables of this trace, which may assign to them
        named = dict(zip((spec.name for spec in specs), arrays, strict=True))
        outputs = model(**named) if by_keyword else model(*arrays)
        for path, variable in _variables(nnx, model).items():
            if path not in before or variable.get_value() is not before[path].get_value():
                raise ConversionError(_refusal(where, path, isinstance(variable, nnx.RngState)))
        return outputs

    return jax_frontend.trace_and_lower(call, specs, batch=batch, where=where)


def _variables(nnx: Any, module: Any) -> dict[str, Any]:
    """The module's variables by path. One that was assigned to holds another array than before."""
    return {"/".join(map(str, path)): variable for path, variable in nnx.to_flat_state(nnx.state(module))}


def _refusal(where: str, path: str, random: bool) -> str:
    if random:
        return (
            f"{where} draws random numbers when it predicts ({path}); a .tflite model has no generator: "
            "make the noise an input of the model"
        )
    return f"{where} keeps state between calls ({path}), and a .tflite file made here can't: pass the state in and out"
