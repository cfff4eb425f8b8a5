"""The files of a bundle, from facts and the templates next to this file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from string import Template

import numpy as np

import octavo
from octavo.firmware.cpp import byte_array, float_literal, label
from octavo.firmware.resolver import resource_variables
from octavo.graph import Program
from octavo.measure import TflmRun
from octavo.runtime.session import Port

_TEMPLATES = ("model.h", "model.cc", "model_ops.h", "golden.h", "golden.cc", "main.cc", "README.md")
FILES = ("model.tflite", *_TEMPLATES)

_INTERPRETER = "  static tflm::MicroInterpreter interpreter(model, resolver, arena, sizeof(arena));"
_STATEFUL = """\
  // State that the model keeps from one inference to the next.
  auto* allocator = tflm::MicroAllocator::Create(arena, sizeof(arena));
  auto* variables = tflm::MicroResourceVariables::Create(allocator, {count});
  static tflm::MicroInterpreter interpreter(model, resolver, allocator, variables);"""
_STATE_INCLUDE = """\
#include "tensorflow/lite/micro/micro_allocator.h"
#include "tensorflow/lite/micro/micro_resource_variable.h"
"""


@dataclass(frozen=True)
class Facts:
    """What the sources say.

    Attributes:
      name: C++ namespace.
      source: what the model is called; any text.
      data: the `.tflite` file.
      program: the same, read.
      operators: methods that register its kernels.
      arena_measured: bytes of the smallest arena in which TFLM runs it here.
      arena_bytes: bytes to reserve.
      inputs: the model's inputs.
      outputs: its outputs.
      golden_inputs: one array for each input, in its own dtype.
      golden_outputs: what TFLM makes of them.
      run: how TFLM compares with LiteRT's reference kernels: what the tolerance comes from.
    """

    name: str
    source: str
    data: bytes
    program: Program
    operators: tuple[str, ...]
    arena_measured: int
    arena_bytes: int
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    golden_inputs: Sequence[np.ndarray]
    golden_outputs: Sequence[np.ndarray]
    run: TflmRun


def sources(facts: Facts) -> dict[str, bytes]:
    """File name -> contents, for every name in `FILES`."""
    words = _words(facts)
    folder = resources.files("octavo.firmware") / "templates"
    texts = {name: Template((folder / f"{name}.in").read_text("utf-8")).substitute(words) for name in _TEMPLATES}
    return {"model.tflite": facts.data, **{name: text.encode("ascii") for name, text in texts.items()}}


def _words(facts: Facts) -> dict[str, object]:
    variables = resource_variables(facts.program)
    source = label(Path(facts.source).name)
    arrays = [("kInput", facts.golden_inputs), ("kOutput", facts.golden_outputs)]
    named = [[(f"{kind}{i}", array) for i, array in enumerate(group)] for kind, group in arrays]
    return {
        "name": facts.name,
        "heading": f"Made by octavo {octavo.__version__} from {source}: don't edit, make it anew.",
        "sha256": hashlib.sha256(facts.data).hexdigest(),
        "model_bytes": len(facts.data),
        "model_array": byte_array("kModel", facts.data, extern=True),
        "arena_measured": f"{facts.arena_measured} bytes",
        "arena_bytes": facts.arena_bytes,
        "arena_extra": facts.arena_bytes - facts.arena_measured,
        "inputs": "\n".join(map(_port, facts.inputs, facts.golden_inputs)),
        "outputs": "\n".join(map(_port, facts.outputs, facts.golden_outputs)),
        "ports": "\n".join(
            [
                *map(_row, ["input"] * len(facts.inputs), facts.inputs, facts.golden_inputs),
                *map(_row, ["output"] * len(facts.outputs), facts.outputs, facts.golden_outputs),
            ]
        ),
        "op_count": len(facts.operators),
        "op_calls": "\n".join(f"  if (resolver.{m}() != kTfLiteOk) return kTfLiteError;" for m in facts.operators),
        "op_list": ", ".join(f"`{method}`" for method in facts.operators),
        "golden_arrays": "\n\n".join(
            byte_array(name, array.tobytes(), extern=False) for group in named for name, array in group
        ),
        "golden_inputs": ", ".join(name for name, _ in named[0]),
        "golden_outputs": ", ".join(name for name, _ in named[1]),
        "tolerance": _tolerance(facts),
        "steps": f"{facts.run.steps or 0.0:.1f}",
        "error": f"{facts.run.error:.17e}",
        "interpreter": _STATEFUL.format(count=variables) if variables else _INTERPRETER,
        "state_include": _STATE_INCLUDE if variables else "",
    }


def _quantization(port: Port) -> tuple[float, int]:
    return (0.0, 0) if port.qparams is None else (float(port.scale[0]), int(port.zero_point[0]))


def _shape(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape)) or "scalar"


def _port(port: Port, array: np.ndarray) -> str:
    scale, zero_point = _quantization(port)
    what = f"{label(port.name)}: {array.dtype.name}, {_shape(array)}"
    return f"    {{{array.nbytes}, {float_literal(scale)}, {zero_point}}},  // {what}"


def _row(kind: str, port: Port, array: np.ndarray) -> str:
    scale, zero_point = _quantization(port)
    return f"| {kind} | `{label(port.name)}` | {array.dtype.name} | {_shape(array)} | {scale:.9g} | {zero_point} |"


def _tolerance(facts: Facts) -> str:
    try:
        made_with = f"tflite-micro {metadata.version('tflite-micro')}"
    except metadata.PackageNotFoundError:
        made_with = "tflite-micro"
    return f"Made with {made_with}. Of {facts.run.agreement}: that much is allowed."
