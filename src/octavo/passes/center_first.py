"""Normalization subtracts the mean first, and so multiplies once less.

Algebra: x * s + (b - m * s) = (x - m) * s + b. Compilers spell layer and group normalization the first way (x is read
once, in a loop that is fused anyway); there x * s and m * s may be far larger than their difference, which integers
round away. x - m is there already: the variance is the mean of its square.

| spelled                                     | becomes |
|---------------------------------------------|---|
| ADD(MUL(x, s), ADD(MUL(NEG(m), s), b))      | ADD(MUL(SUB(x, m), s), b) |
| ADD(MUL(x, s), SUB(b, MUL(m, s)))           | the same |

With s = r * g and g constant, (x - m) * (r * g) becomes ((x - m) * r) * g: the normalized numbers are of one size in
every channel, and g and b may fold into the weights behind.

Refuses fused activations, pieces that something else reads, and a mean that isn't subtracted from x anywhere.
"""

from __future__ import annotations

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values


def center_first(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code == "ADD" and op.outputs[0].dtype is DType.FLOAT32:
                _center(editor, op)
        editor.finish()
    return []


def _piece(editor: Editor, tensor: Tensor | None, code: str) -> Op | None:
    """The op of that kind, without a fused activation, that makes `tensor` for one reader only."""
    op = editor.maker(tensor, code)
    alone = op is not None and tensor is not None and editor.only_reader(tensor) is not None
    return op if alone and op is not None and not op.option("fusedActivationFunction") else None


def _orders(op: Op) -> list[tuple[Tensor | None, Tensor | None]]:
    first, second = op.inputs[:2]  # a damaged file may have more
    return [(first, second), (second, first)]


def _center(editor: Editor, op: Op) -> None:
    for product, offset in _orders(op):
        scaled = _piece(editor, product, "MUL")
        shift = None if scaled is None else _shift(editor, offset)
        if scaled is None or shift is None:
            continue
        mean, factor, bias = shift
        for x, s in _orders(scaled):
            centered = None if x is None or s is not factor else _centered(editor, x, mean)
            if x is not None and centered is not None and x.shape == op.outputs[0].shape == centered.shape:
                _rewrite(editor, op, scaled, centered, factor, bias)
                return


def _shift(editor: Editor, offset: Tensor | None) -> tuple[Tensor, Tensor, Tensor] | None:
    """(m, s, b) of b - m * s."""
    add, sub = _piece(editor, offset, "ADD"), _piece(editor, offset, "SUB")
    found: list[tuple[Tensor | None, Tensor | None, bool]] = []
    if add is not None:
        found = [(product, bias, True) for product, bias in _orders(add)]
    elif sub is not None:
        found = [(sub.inputs[1], sub.inputs[0], False)]
    for product, bias, negated in found:
        scaled = _piece(editor, product, "MUL")
        for mean, factor in [] if scaled is None else _orders(scaled):
            if negated:
                negation = editor.maker(mean, "NEG")
                mean = None if negation is None else negation.inputs[0]
            if mean is None or factor is None or bias is None or mean.is_constant or factor.is_constant:
                continue
            return mean, factor, bias
    return None


def _centered(editor: Editor, x: Tensor, mean: Tensor) -> Tensor | None:
    """The x - m that stands in the graph."""
    for reader in editor.readers(x):
        if reader.code == "SUB" and reader.inputs == [x, mean] and not reader.option("fusedActivationFunction"):
            return reader.outputs[0]
    return None


def _rewrite(editor: Editor, op: Op, scaled: Op, centered: Tensor, factor: Tensor, bias: Tensor) -> None:
    """`op` becomes normalized * gain + bias."""
    made = op.outputs[0]
    plain = {"fusedActivationFunction": 0}
    old = [editor.maker(tensor) for tensor in op.inputs]
    product, gained = centered, factor
    split = editor.maker(factor, "MUL")
    for gain, rest in [] if split is None or split.option("fusedActivationFunction") else _orders(split):
        if float_values(gain) is not None and rest is not None and not rest.is_constant:
            product = editor.tensor_like(made, f"{made.name}/normalized")
            editor.insert_before(op, Op("MUL", [centered, rest], [product], dict(plain), "MulOptions"))
            gained = gain
            break
    total = editor.tensor_like(made, f"{made.name}/scaled")
    editor.insert_before(op, Op("MUL", [product, gained], [total], dict(plain), "MulOptions"))
    options = {"fusedActivationFunction": op.option("fusedActivationFunction", 0)}
    editor.change(op, "ADD", [total, bias], "AddOptions", options)
    for maker in old:
        editor.prune(maker)
