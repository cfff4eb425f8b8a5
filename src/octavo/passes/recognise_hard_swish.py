"""Hard-swish in pieces becomes HARD_SWISH.

Algebra: hard_swish(x) = x * relu6(x + 3) / 6, whichever of the two products comes first (Howard et al., Searching for
MobileNetV3, https://arxiv.org/abs/1905.02244). Each piece would round to int8 by itself; LiteRT's kernel rounds once.

Refuses pieces that something else reads too, other constants, and x * sigmoid(x) (swish): LiteRT has no op for it, and
LOGISTIC and MUL have integer kernels. LayerNorm stays in pieces for the same reason: MEAN, SUB, MUL, RSQRT and ADD all
have int8 kernels, and there is no fused one.
"""

from __future__ import annotations

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values

_RELU6 = 3  # ActivationFunctionType in the schema
_TOLERANCE = 1e-6


def recognise_hard_swish(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code == "MUL" and not op.option("fusedActivationFunction") and op.outputs[0].dtype is DType.FLOAT32:
                x = _hard_swish(editor, op)
                if x is not None and x.shape == op.outputs[0].shape:
                    editor.change(op, "HARD_SWISH", [x], "HardSwishOptions", {})
        editor.finish()
    return []


def _hard_swish(editor: Editor, op: Op) -> Tensor | None:
    """The x of which `op` is the hard-swish, or None."""
    for a, b in (op.inputs, op.inputs[::-1]):
        if _is(b, 1 / 6):  # (x * relu6(x + 3)) * 1/6
            product = _piece(editor, a, "MUL")
            for x, gate in [] if product is None else [product.inputs, product.inputs[::-1]]:
                if x is not None and _gated(editor, gate) is x:
                    return x
        scaled = _piece(editor, b, "MUL")  # x * (relu6(x + 3) * 1/6)
        for gate, factor in [] if scaled is None else [scaled.inputs, scaled.inputs[::-1]]:
            if a is not None and _is(factor, 1 / 6) and _gated(editor, gate) is a:
                return a
    return None


def _gated(editor: Editor, gate: Tensor | None) -> Tensor | None:
    """The x of relu6(x + 3), fused or not."""
    relu = _piece(editor, gate, "RELU6")
    shifted = _piece(editor, gate if relu is None else relu.inputs[0], "ADD", fused=_RELU6 if relu is None else 0)
    for x, three in [] if shifted is None else [shifted.inputs, shifted.inputs[::-1]]:
        if _is(three, 3.0):
            return x
    return None


def _piece(editor: Editor, tensor: Tensor | None, code: str, fused: int = 0) -> Op | None:
    """The op of that kind that makes `tensor` for one reader only."""
    op = editor.maker(tensor, code)
    alone = op is not None and editor.only_reader(op.outputs[0]) is not None
    return op if alone and op is not None and op.option("fusedActivationFunction", 0) == fused else None


def _is(tensor: Tensor | None, number: float) -> bool:
    values = float_values(tensor)
    return values is not None and values.size == 1 and abs(float(values.flat[0]) - number) <= _TOLERANCE * number
