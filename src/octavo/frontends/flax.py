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
        import jax
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
    before = jax.tree.leaves(state)

    def call(*arrays: Any) -> Any:
        model = nnx.merge(graph, state, copy=True)  # variables of this trace, which may assign to them
        named = dict(zip((spec.name for spec in specs), arrays, strict=True))
        outputs = model(**named) if by_keyword else model(*arrays)
        if changed := _changed(nnx, jax, model, before):
            raise ConversionError(_refusal(where, changed))
        return outputs

    return jax_frontend.trace_and_lower(call, specs, batch=batch, where=where)


def _changed(nnx: Any, jax: Any, model: Any, before: list[Any]) -> str:
    """The path of the first variable that a call replaced, "" if none: an array that was assigned to is another one."""
    after = jax.tree_util.tree_flatten_with_path(nnx.state(model))[0]
    if len(after) != len(before):
        return "a variable that a call adds or removes"
    for (path, leaf), known in zip(after, before, strict=True):
        if leaf is not known:
            return jax.tree_util.keystr(path)
    return ""


def _refusal(where: str, changed: str) -> str:
    if "count" in changed.lower():  # flax.nnx.RngStream counts its draws
        return (
            f"{where} draws random numbers when it predicts ({changed}); a .tflite model has no generator: "
            "make the noise an input of the model"
        )
    return (
        f"{where} keeps state between calls ({changed}), and a .tflite file made here can't: pass the state in and out"
    )
