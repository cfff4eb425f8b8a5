"""StableHLO -> `.tflite` bytes, by Google's own passes (`litert-converter`).

The passes end in LiteRT's dialect of MLIR. Three things are done there before it is written to a flatbuffer: loop
bodies become functions (`loops`), ops get names that start with the layer's (`naming`), and ops that LiteRT has no
kernel for are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from octavo.errors import ConversionError, MissingDependencyError
from octavo.frontends import dots, loops, naming, transposed

if TYPE_CHECKING:
    from jax.export import Exported

SIGNATURE = "serving_default"

# Dialects that the flatbuffer exporter writes, and the StableHLO ops that LiteRT has kernels for
# (the STABLEHLO_* rows of tflite/core/kernels/register.cc).
_WRITABLE_DIALECTS = frozenset({"tfl", "arith", "func", "builtin", "quant"})
_STABLEHLO_KERNELS = frozenset(
    {"add", "and", "case", "composite", "gather", "maximum", "minimum", "multiply", "pad", "reduce_window"}
    | {"rng_bit_generator", "scatter", "shift_left"}
)


def lower(
    module: Exported | bytes | bytearray,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    where: str,
    signature: str = SIGNATURE,
) -> bytes:
    """Lower one StableHLO function to a `.tflite` file.

    Args:
      module: what `jax.export.export` made, or a serialized StableHLO portable artifact (`mlir_module_serialized`).
      inputs: a name for each argument of the function, in order.
      outputs: a name for each result, in order.
      where: what is being converted, for messages.
      signature: the name of the entry point.

    Raises:
      ConversionError: an op has no LiteRT form; the message names it.
      MissingDependencyError: litert-converter isn't installed.
    """
    api, ir, passes, stablehlo = libraries()
    artifact = module if isinstance(module, bytes | bytearray) else module.mlir_module_serialized
    problems: list[str] = []
    with ir.Context() as context:
        api.prepare_mlir_context(context)
        handler = context.attach_diagnostic_handler(lambda diagnostic: _note(diagnostic, problems))
        try:
            return _lower(api, ir, passes, stablehlo, artifact, inputs, outputs, where, signature)
        except ConversionError:
            raise
        except Exception as error:  # the bindings raise ValueError, RuntimeError and MLIRError for the same causes
            raise ConversionError(f"{where} can't be lowered to LiteRT: {_reason(problems, error)}") from error
        finally:
            handler.detach()


def _lower(
    api: Any,
    ir: Any,
    passes: Any,
    stablehlo: Any,
    artifact: bytes | bytearray,
    inputs: Sequence[str],
    outputs: Sequence[str],
    where: str,
    signature: str,
) -> bytes:
    """The conversion proper, inside an MLIR context."""
    module = stablehlo.deserialize_portable_artifact(ir.Context.current, bytes(artifact))
    entry = next(op.operation for op in module.body.operations if _symbol(ir, op) == "main")
    transposed.make_plain(ir, stablehlo, module)
    dots.to_convolutions(ir, stablehlo, module)
    api.set_signature(entry, signature, list(inputs), list(outputs))
    api.run_convert_to_tfl_passes(module, passes.PassManager(), api.ConvertToTFLConfig())
    _refuse_unknown(ir, module, where)
    transposed.set_padding(ir, module, where)
    loops.outline(ir, module)
    naming.name_ops(ir, module)
    return api.export_flatbuffer_to_bytes(module.operation)


def libraries() -> tuple[Any, Any, Any, Any]:
    """What lowers: litert-converter's own module, and those of MLIR that come with it.

    Raises:
      MissingDependencyError: it isn't installed.
    """
    try:
        from litert_converter import converter_api_ext as api  # pyright: ignore[reportAttributeAccessIssue]
        from litert_converter.mlir import ir, passmanager
        from litert_converter.mlir.dialects import stablehlo
    except ImportError as error:
        raise MissingDependencyError(
            f'litert-converter is needed to convert a model ({error}): pip install "octavo[keras]"'
        ) from error
    return api, ir, passmanager, stablehlo


def _symbol(ir: Any, op: Any) -> str | None:
    attributes = op.operation.attributes
    return ir.StringAttr(attributes["sym_name"]).value if "sym_name" in attributes else None


def _refuse_unknown(ir: Any, module: Any, where: str) -> None:
    """Raise if an op is left that no LiteRT kernel computes."""
    left: dict[str, str] = {}

    def visit(op: Any) -> Any:
        dialect, _, kind = op.name.partition(".")
        if dialect == "stablehlo" and kind in _STABLEHLO_KERNELS:
            return ir.WalkResult.SKIP  # its region is written with it
        if dialect not in _WRITABLE_DIALECTS:
            left.setdefault(op.name, naming.op_name(ir, op))
            return ir.WalkResult.SKIP
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    if left:
        listed = ", ".join(f"{kind} ({name})" if name else kind for kind, name in left.items())
        raise ConversionError(
            f"{where} can't be lowered to LiteRT: no LiteRT op computes {listed}; "
            "replace it in the model by ops that LiteRT has"
        )


def _note(diagnostic: Any, problems: list[str]) -> bool:
    """Keep an error that MLIR reports; True tells MLIR that it is dealt with, so nothing is printed."""
    if str(diagnostic.severity).endswith("ERROR"):
        problems.append(diagnostic.message)
    return True


def _reason(problems: Sequence[str], error: Exception) -> str:
    """One line out of MLIR's many: the op that failed if it is named."""
    text = "\n".join([*problems, str(error)])
    if found := re.search(r"failed to legalize operation '([\w.]+)'(?:.*? : (\(.*\) -> .*))?", text):
        types = f" of {found[2].strip()}" if found[2] else ""
        return f"no LiteRT op computes {found[1]}{types}; replace it in the model by ops that LiteRT has"
    if "bytecode" in text and "failed to deserialize" in text:
        return (
            "it holds something that isn't plain StableHLO, such as the custom call of a matrix decomposition "
            f"({problems[0] if problems else error})"
        )
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return line.partition(": %")[0][:300]
