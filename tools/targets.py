"""Hold what `octavo.check` says of real models against what runs them, and write the table down.

    python tools/targets.py --out docs/targets.md    # download, check, run, write the table
    python tools/targets.py --models DIR             # models from a folder

The models are those of tools/zoo.py. Each is quantized for each target, ops that can't be left in float; the ranges are
made up, since only types, sizes and options matter here. Where the real thing runs on this machine, it is asked too:
TFLM (loads and runs, or not), Vela (which ops it leaves to the CPU) and XNNPACK (delegates the whole model, or not).
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from zoo import download

import octavo
from octavo.errors import OctavoError, RunError
from octavo.making import prepare
from octavo.model import Model
from octavo.runtime.tflm import TflmSession
from octavo.runtime.vela import compile_model
from octavo.targets import TARGETS
from octavo.targets.check import target_findings
from octavo.targets.fit import adapted, rehearse
from octavo.targets.rules import Target

START, END = "<!-- table:targets -->", "<!-- end -->"


@dataclass(frozen=True)
class Row:
    """One model on one target.

    Attributes:
      model: its name.
      target: the target's.
      ops: number of ops.
      refused: kinds of the ops that won't run; a model with open sizes has one more, "open sizes".
      agrees: whether the real thing says the same of every op; None if it wasn't asked.
    """

    model: str
    target: str
    ops: int
    refused: tuple[str, ...]
    agrees: bool | None


def quantized(model: Model, target: Target) -> Model:
    """The model in the form that the target wants, what can't be so in float."""
    prepared = prepare(model)
    recipe = adapted(prepared.program, target)
    return Model(rehearse(prepared.program, replace(recipe, scheme=replace(recipe.scheme, fallback=True)))[0])


def on_tflm(model: Model, refused: Counter[str]) -> bool | None:
    try:
        session = TflmSession(bytes(model), name="it")
        session.invoke([np.zeros(port.shape, port.dtype) for port in session.inputs])
    except RunError as error:
        return bool(refused) if "TFLM" in str(error) else None  # LiteRT itself, which is asked first, can't load it
    return not refused


def on_xnnpack(model: Model, refused: Counter[str]) -> bool | None:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=bytes(model))
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError):
        return None
    delegates = [op for op in interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]
    borders = [
        {port["index"] for port in side} for side in (interpreter.get_input_details(), interpreter.get_output_details())
    ]
    whole = len(delegates) == 1 and all(
        border <= set(delegates[0][side].tolist()) for border, side in zip(borders, ("inputs", "outputs"), strict=True)
    )
    return whole != bool(refused)


def on_vela(target: str) -> Callable[[Model, Counter[str]], bool | None]:
    def ask(model: Model, refused: Counter[str]) -> bool | None:
        return Counter(left.op for left in compile_model(model, target).on_cpu) == refused

    return ask


ASKED: dict[str, Callable[[Model, Counter[str]], bool | None]] = {
    "tflm": on_tflm,
    "xnnpack": on_xnnpack,
    "ethosu55": on_vela("ethosu55"),
    "ethosu85": on_vela("ethosu85"),
}


def rows(path: Path) -> list[Row]:
    found = []
    for name, target in TARGETS.items():
        model = quantized(octavo.load(path), target)
        broken = {op for op, _ in target_findings(model.program, target)}
        agrees = None
        if name in ASKED and None not in broken:
            try:
                agrees = ASKED[name](model, Counter(op.name for op in broken if op is not None))
            except OctavoError as error:
                print(f"{path.stem} on {name}: {error}", file=sys.stderr)
        kinds = tuple("open sizes" if op is None else op.code for op in broken)
        found.append(Row(path.stem, name, sum(1 for _ in model.program.ops()), kinds, agrees))
        print(found[-1], file=sys.stderr, flush=True)
    return found


def table(found: list[Row]) -> str:
    """Per target: models that run in full, what keeps the others, and how often the real thing agreed."""
    lines = [
        "| target | run in full | what keeps the others: models, kinds of ops | the real thing agrees |",
        "|---|--:|---|--:|",
    ]
    for name in TARGETS:
        mine = [row for row in found if row.target == name]
        models = Counter(kind for row in mine for kind in {*row.refused} - {"QUANTIZE", "DEQUANTIZE"})
        kept = ", ".join(
            f"{count} {kind}" for kind, count in sorted(models.most_common(8), key=lambda kept: (-kept[1], kept[0]))
        )
        asked = [row.agrees for row in mine if row.agrees is not None]
        agreed = f"{sum(asked)} of {len(asked)}" if asked else ""
        full = sum(not row.refused for row in mine)
        lines.append(f"| {name} | {full} of {len(mine)} | {kept} | {agreed} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="hold octavo.check against the real thing")
    parser.add_argument("--models", type=Path, help="a folder of .tflite files; downloaded if not given")
    parser.add_argument("--out", type=Path, help="the page whose table to replace; stdout if not given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(arguments.models.glob("*.tflite")) if arguments.models else download(Path(folder))
        text = table([row for path in paths for row in rows(path)])
    if arguments.out is None:
        print(text)
    else:
        page = arguments.out.read_text(encoding="utf-8")
        written = re.sub(f"(?<={START}\n).*?(?={END})", lambda _: text + "\n", page, flags=re.DOTALL)
        arguments.out.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
