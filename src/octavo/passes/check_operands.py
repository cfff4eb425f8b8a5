"""Every op that octavo knows has the operands that its kernel needs, and signatures name inputs and outputs.

No rewrite: a check before all others, so that none has to ask. The schema allows an op to leave out any operand; LiteRT
would refuse to run such a file, and so does octavo, naming the op. What is optional stays so: a bias, and the shape of
a RESHAPE, which may stand in its options.
"""

from __future__ import annotations

from octavo.errors import ModelFileError
from octavo.graph import Op, Program
from octavo.ops import OPS

_AT_LEAST = {"RESHAPE": 1, "DIV": 2, "FLOOR_DIV": 2, "FLOOR_MOD": 2, "POW": 2, "SQUARE": 1, "NEG": 1, "ADD_N": 1}


def check_operands(program: Program) -> list[str]:
    """There is nothing to tell.

    Raises:
      ModelFileError: an op lacks an operand or a result, or a signature names what is neither input nor output.
    """
    for op in program.ops():
        _check(program, op)
    for signature in program.signatures:
        known = {*signature.graph.inputs, *signature.graph.outputs}
        for name, tensor in (*signature.inputs, *signature.outputs):
            if tensor not in known:
                where = program.source or "the model"
                raise ModelFileError(
                    f"{where}: signature {signature.key!r} gives the name {name!r} to a tensor that is neither input "
                    "nor output: it is damaged"
                )
    return []


def _check(program: Program, op: Op) -> None:
    row = OPS.get(op.code)
    if row is None or (row.sample is None and op.code not in _AT_LEAST):
        return
    where = program.source or "the model"
    needed = _AT_LEAST.get(op.code, len(row.inputs.rstrip("*").rstrip("b")))
    given = sum(tensor is not None for tensor in op.inputs[:needed])
    if given < needed:
        raise ModelFileError(f"{where}: {op.name} has {given} of the {needed} operand(s) that it needs: it is damaged")
    if not op.outputs:
        raise ModelFileError(f"{where}: {op.name} has no result: it is damaged")
