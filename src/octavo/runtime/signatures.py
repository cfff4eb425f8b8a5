"""Names of a model's inputs and outputs: from its signature, or from its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_KEY = "serving_default"


@dataclass(frozen=True)
class SignatureNames:
    """What a file says of one signature: pairs of name and tensor index, in the file's order."""

    key: str
    subgraph: int
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Entry:
    """What a session runs.

    Attributes:
      key: the signature's name, None if the model has none.
      inputs, outputs: pairs of unique name and LiteRT's details of the tensor.
      runner: LiteRT's signature runner for a subgraph other than the main one, else None.
      subgraph: the number of the subgraph.
    """

    key: str | None
    inputs: tuple[tuple[str, dict[str, Any]], ...]
    outputs: tuple[tuple[str, dict[str, Any]], ...]
    runner: Any = None
    subgraph: int = 0

    def shape_of(self, index: int, interpreter: Any) -> tuple[int, ...]:
        """The present shape of the output with this tensor index."""
        listed = interpreter.get_output_details() if self.runner is None else self.runner.get_output_details().values()
        return next(tuple(int(n) for n in record["shape"]) for record in listed if record["index"] == index)


def read_signatures(data: bytes) -> list[SignatureNames]:
    """The signatures of a `.tflite` file that LiteRT has already verified.

    LiteRT's Python interface sorts the names and doesn't tell the subgraph; the file has both.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)

    def pair(tensor_map: Any) -> tuple[str, int]:
        return (tensor_map.Name() or b"").decode("utf-8", "surrogateescape"), int(tensor_map.TensorIndex())

    def read(definition: Any) -> SignatureNames:
        inputs = tuple(pair(definition.Inputs(i)) for i in range(definition.InputsLength()))
        outputs = tuple(pair(definition.Outputs(i)) for i in range(definition.OutputsLength()))
        key = (definition.SignatureKey() or b"").decode("utf-8", "surrogateescape")
        return SignatureNames(key, int(definition.SubgraphIndex()), inputs, outputs)

    return [read(model.SignatureDefs(i)) for i in range(model.SignatureDefsLength())]


def uses_op(data: bytes, code: str) -> bool:
    """Whether a `.tflite` file that LiteRT has already verified has an op of this builtin kind."""
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.Model.GetRootAs(data, 0)
    wanted = getattr(schema.BuiltinOperator, code)
    return any(model.OperatorCodes(i).BuiltinCode() == wanted for i in range(model.OperatorCodesLength()))


def entry_point(interpreter: Any, signatures: list[SignatureNames], key: str | None) -> Entry:
    """Choose what to run; `key` None takes the main subgraph.

    Raises:
      KeyError: there is no signature `key`.
      ValueError: LiteRT can't give a name.
    """
    by_key = {signature.key: signature for signature in signatures}
    if key is None:
        main = [signature for signature in signatures if signature.subgraph == 0]
        chosen = next((s for s in main if s.key == DEFAULT_KEY), main[0] if main else None)
    else:
        chosen = by_key[key]
    if chosen is not None and chosen.subgraph != 0:
        return _other_subgraph(interpreter, chosen)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    return Entry(
        chosen.key if chosen else None,
        _named(inputs, chosen.inputs if chosen else ()),
        _named(outputs, chosen.outputs if chosen else ()),
    )


def _other_subgraph(interpreter: Any, signature: SignatureNames) -> Entry:
    runner = interpreter.get_signature_runner(signature.key)

    def in_file_order(details: Mapping[str, Any], pairs: Iterable[tuple[str, int]]) -> tuple[tuple[str, Any], ...]:
        return tuple((name, details[name]) for name, _ in pairs)

    return Entry(
        signature.key,
        in_file_order(runner.get_input_details(), signature.inputs),
        in_file_order(runner.get_output_details(), signature.outputs),
        runner,
        signature.subgraph,
    )


def _named(details: list[dict[str, Any]], pairs: Iterable[tuple[str, int]]) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Give each tensor, in the subgraph's order, its name in the signature, else its own, made unique."""
    names: dict[int, list[str]] = {}
    for name, index in pairs:
        names.setdefault(index, []).append(name)
    taken = {name for listed in names.values() for name in listed}
    result = []
    for record in details:
        waiting = names.get(int(record["index"]))
        name = waiting.pop(0) if waiting else _unique(record["name"] or "tensor", taken)
        taken.add(name)
        result.append((name, record))
    # A tensor that the subgraph lists once may have several names in the signature.
    by_index = {int(record["index"]): record for record in details}
    for index, waiting in names.items():
        result.extend((name, by_index[index]) for name in waiting if index in by_index)
    return tuple(result)


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate
