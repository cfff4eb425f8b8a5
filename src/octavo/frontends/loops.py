"""Loops in LiteRT's dialect: bodies as regions -> bodies as functions, the only form that the flatbuffer writes.

`tfl.while` carries two regions that may read values from around them. A `.tflite` WHILE names two subgraphs, which see
nothing but their inputs. So each region moves into a function of its own; a constant that it read is copied into it,
any other value that it read is carried through the loop unchanged. (TensorFlow does the same in
`tensorflow/compiler/mlir/lite/transforms/while_loop_outline.cc`; `litert-converter` leaves that pass out.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_CONSTANTS = frozenset({"arith.constant", "tfl.pseudo_const", "tfl.pseudo_qconst", "tfl.no_value"})


def outline(ir: Any, module: Any) -> int:
    """Give every `tfl.while` of the module functions as condition and body; returns how many there were."""
    found: list[Any] = []

    def visit(op: Any) -> Any:
        if op.name == "tfl.while":
            found.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit, ir.WalkOrder.POST_ORDER)  # inner loops first
    for index, op in enumerate(found):
        _outline_one(ir, module, op, index)
    return len(found)


def _outline_one(ir: Any, module: Any, loop: Any, index: int) -> None:
    carried = _outside_values(loop)
    operands = [*loop.operands, *carried]
    types = [value.type for value in operands]
    new = ir.Operation.create(
        "tfl.while",
        results=types,
        operands=operands,
        attributes={named.name: named.attr for named in (loop.attributes[i] for i in range(len(loop.attributes)))},
        regions=2,
        loc=loop.location,
        ip=ir.InsertionPoint(loop),
    )
    for region, old, role in zip(new.regions, loop.regions, ("cond", "body"), strict=True):
        name = f"while_{index}_{role}"
        function = _function_of(ir, module, old.blocks[0], carried, name, loop.location, role == "body")
        block = region.blocks.append(*types, arg_locs=[loop.location] * len(types))
        with ir.InsertionPoint(block), loop.location:
            call = ir.Operation.create(
                "func.call",
                results=function.type.results,
                operands=list(block.arguments),
                attributes={"callee": ir.FlatSymbolRefAttr.get(function.name.value)},
            )
            ir.Operation.create("tfl.yield", operands=list(call.results))
    for old_result, new_result in zip(loop.results, new.results, strict=False):
        old_result.replace_all_uses_with(new_result)
    loop.erase()


def _function_of(ir: Any, module: Any, block: Any, carried: list[Any], name: str, loc: Any, is_body: bool) -> Any:
    """Move a region's only block into a new private function; the body also returns what is carried."""
    from litert_converter.mlir.dialects import func

    terminator = list(block.operations)[-1].operation
    results = [*terminator.operands]
    inputs = [*(argument.type for argument in block.arguments), *(value.type for value in carried)]
    outputs = [*(value.type for value in results), *(value.type for value in carried if is_body)]
    with ir.InsertionPoint(module.body), loc:
        function = func.FuncOp(name, ir.FunctionType.get(inputs, outputs), visibility="private")
    entry = function.add_entry_block(arg_locs=[loc] * len(inputs))
    arguments = list(entry.arguments)
    _copy_constants(ir, block, entry)
    for op in list(block.operations):
        entry.append(op)
    for old, new in zip([*block.arguments], arguments, strict=False):
        old.replace_all_uses_with(new)
    for value, new in zip(carried, arguments[len(block.arguments) :], strict=True):
        for op in _nested(entry):
            op.replace_uses_of_with(value, new)
    terminator = list(entry.operations)[-1].operation
    returned = [*terminator.operands, *(arguments[len(block.arguments) :] if is_body else [])]
    with ir.InsertionPoint(terminator), loc:
        func.ReturnOp(returned)
    terminator.erase()
    return function


def _copy_constants(ir: Any, block: Any, entry: Any) -> None:
    """Copy the constants that the block reads from outside to the start of the function."""
    inside = _defined(block)
    copies: dict[Any, Any] = {}
    for op in _nested(block):
        for value in list(op.operands):
            if value in inside:
                continue
            source = _constant(value)
            if source is None:
                continue
            if value not in copies:
                copies[value] = source.clone(ir.InsertionPoint(entry)).results[0]
            op.replace_uses_of_with(value, copies[value])


def _outside_values(loop: Any) -> list[Any]:
    """Values, constants aside, that the loop's regions read from around the loop; each once, in order."""
    found: dict[Any, None] = {}
    for region in loop.regions:
        inside = _defined(region.blocks[0])
        for op in _nested(region.blocks[0]):
            for value in op.operands:
                if value not in inside and _constant(value) is None:
                    found[value] = None
    return list(found)


def _constant(value: Any) -> Any | None:
    """The constant op that makes a value, None if it is anything else."""
    owner = getattr(value.owner, "operation", value.owner)
    return owner if getattr(owner, "name", "") in _CONSTANTS else None


def _defined(block: Any) -> set[Any]:
    """Every value that the block, or a region in it, defines."""
    values = set(block.arguments)
    for op in _nested(block):
        values.update(op.results)
        for region in op.regions:
            for inner in region.blocks:
                values.update(inner.arguments)
    return values


def _nested(block: Any) -> Iterator[Any]:
    """The block's ops and those of the regions in them."""
    for op in block.operations:
        yield op.operation
        for region in op.operation.regions:
            for inner in region.blocks:
                yield from _nested(inner)
