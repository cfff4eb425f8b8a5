"""Arm's compiler for Ethos-U NPUs, Vela, through the optional package `ethos-u-vela`: what runs on the NPU, how fast.

Vela runs in a child process, in a folder that goes afterwards. It gets the model with numbers for its tensors' names,
so that what it says about them can be told apart whatever the names are. Its figures are estimates: see `VelaReport`.
"""

from __future__ import annotations

import csv
import importlib.util
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from octavo import tflite
from octavo.errors import MissingDependencyError, RunError
from octavo.graph import Op, Program
from octavo.runtime.session import ModelLike, first_line, model_bytes, model_name
from octavo.text import printable

# Target -> the size of NPU (multiply-accumulates per cycle) that is compiled for unless another is named. Source of the
# names: `vela --help`.
DEFAULTS = {"ethosu55": "ethos-u55-128", "ethosu65": "ethos-u65-256", "ethosu85": "ethos-u85-256"}
_SIZES = {"55": (32, 64, 128, 256), "65": (256, 512), "85": (128, 256, 512, 1024, 2048)}
ACCELERATORS = tuple(f"ethos-u{kind}-{size}" for kind, sizes in _SIZES.items() for size in sizes)
_COMPILED = "ethos-u"  # the custom op that stands for what the NPU does


@dataclass(frozen=True)
class OnCpu:
    """An op that the NPU doesn't take, and why."""

    op: str
    reason: str


@dataclass(frozen=True)
class VelaReport:
    """What Vela made of a model.

    Cycles and times are Vela's estimates for the NPU and the memories of `system_config`, without time on the CPU.

    Attributes:
      accelerator: what it was compiled for ("ethos-u55-128").
      system_config: clock and memories that were assumed.
      memory_mode: where weights and activations were assumed to be.
      ops: ops of the model.
      on_cpu: those that stay on the CPU.
      macs: multiply-accumulates on the NPU.
      cycles: estimated cycles of the NPU for one inference.
      milliseconds: the same at the assumed clock.
      sram_bytes: SRAM used.
      dram_bytes: DRAM used.
      flash_bytes: flash used, on the chip and off it.
      compiled: the compiled `.tflite` file.
    """

    accelerator: str
    system_config: str
    memory_mode: str
    ops: int
    on_cpu: tuple[OnCpu, ...]
    macs: int
    cycles: int
    milliseconds: float
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    compiled: bytes = field(repr=False)

    @property
    def npu_share(self) -> float:
        """Share of the model's ops that run on the NPU."""
        return 1 - len(self.on_cpu) / self.ops if self.ops else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the compiled file's size in place of its bytes."""
        return {**asdict(self), "compiled": len(self.compiled), "npu_share": self.npu_share}

    def __str__(self) -> str:
        inside = self.ops - len(self.on_cpu)
        lines = [
            f"{self.accelerator} ({self.system_config}, {self.memory_mode}): {inside} of {self.ops} ops on the NPU",
            f"  {self.cycles:,} cycles, {self.milliseconds:.3g} ms (Vela's estimate, the CPU's ops not counted)",
            f"  SRAM {self.sram_bytes:,} bytes, DRAM {self.dram_bytes:,}, flash {self.flash_bytes:,}",
        ]
        return "\n".join([*lines, *(f"  on the CPU: {left.op}: {left.reason}" for left in self.on_cpu)])


def installed() -> bool:
    """Whether ethos-u-vela is there."""
    return importlib.util.find_spec("ethosu") is not None


def compile_model(
    model: ModelLike,
    target: str = "ethosu55",
    *,
    system_config: str | None = None,
    memory_mode: str | None = None,
    name: str | None = None,
) -> VelaReport:
    """Compile a model for an Ethos-U NPU.

    Args:
      model: `.tflite` bytes, a path, or an `octavo.Model`.
      target: "ethosu55", "ethosu65" or "ethosu85", or a size of one of them, such as "ethos-u55-256".
      system_config: clock and memories, as Vela's own configuration file names them; None is Vela's default.
      memory_mode: where weights and activations are; None is Vela's default.
      name: how messages call the model.

    Raises:
      MissingDependencyError: ethos-u-vela isn't installed.
      RunError: an unknown target, or Vela refuses the model; says why.
    """
    if not installed():
        raise MissingDependencyError("compiling for Ethos-U needs Vela: pip install 'octavo[vela]'")
    accelerator = DEFAULTS.get(target, target)
    if accelerator not in ACCELERATORS:
        raise RunError(f"{target!r} is no Ethos-U: choose {', '.join((*DEFAULTS, *ACCELERATORS))}")
    label = name or model_name(model)
    program = tflite.read(model_bytes(model))
    ops = _number_tensors(program)
    options = {"--accelerator-config": accelerator, "--system-config": system_config, "--memory-mode": memory_mode}
    with tempfile.TemporaryDirectory(prefix="octavo-vela-") as folder:
        source = Path(folder) / "model.tflite"
        source.write_bytes(tflite.write(program))
        said = _run([str(source), "--output-dir", folder, *_given(options)], label)
        compiled = (Path(folder) / "model_vela.tflite").read_bytes()
        (summary,) = Path(folder).glob("model_summary_*.csv")
        with summary.open(newline="", encoding="utf-8") as file:
            figures = next(csv.DictReader(file))
    return _report(accelerator, ops, compiled, figures, _reasons(said))


def _number_tensors(program: Program) -> dict[str, str]:
    """Give every tensor a name of its own and a static shape; returns the output's new name -> op, for each op."""
    named: list[tuple[Op, str]] = [(op, op.name) for graph in program.graphs for op in graph.ops]
    for number, tensor in enumerate(program.tensors()):
        tensor.name, tensor.shape_signature = f"t{number}", None
    return {op.outputs[0].name if op.outputs else f"op{i}": name for i, (op, name) in enumerate(named)}


def _given(options: dict[str, str | None]) -> list[str]:
    return [word for option, value in options.items() if value is not None for word in (option, value)]


def _run(arguments: list[str], label: str) -> str:
    """Vela's output.

    Raises:
      RunError: it fails.
    """
    command = [sys.executable, "-m", "ethosu.vela", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0 or not Path(arguments[0]).with_name("model_vela.tflite").exists():
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = lines[-1] if lines else f"it ended with exit status {done.returncode}"
        raise RunError(f"{label}: Vela can't compile it: {first_line(reason)}")
    return done.stdout + "\n" + done.stderr


def _reasons(said: str) -> dict[str, str]:
    """Name of an op's output -> why Vela leaves the op on the CPU."""
    found = re.findall(r"operator: \w+, ofm: '(t\d+)'\nReason: (.+(?:\n.+)*)", said)
    return {name: printable(re.sub(r" ?\(t\d+\)", "", "; ".join(reason.splitlines()))) for name, reason in found}


def _report(
    accelerator: str, ops: dict[str, str], compiled: bytes, figures: dict[str, str], reasons: dict[str, str]
) -> VelaReport:
    left = tflite.read(compiled)
    outputs = [t.name for op in left.ops() if op.custom_code != _COMPILED for t in op.outputs]
    unsaid = "Vela leaves it on the CPU without a reason"
    kib = {place: float(figures[f"{place}_memory_used"]) * 1024 for place in
           ("sram", "dram", "on_chip_flash", "off_chip_flash")}  # fmt: skip
    return VelaReport(
        accelerator,
        figures["system_config"],
        figures["memory_mode"],
        len(ops),
        tuple(OnCpu(ops[name], reasons.get(name, unsaid)) for name in dict.fromkeys(outputs) if name in ops),
        int(float(figures["nn_macs"])),
        int(float(figures["cycles_total"])),
        1000 * float(figures["inference_time"]),
        round(kib["sram"]),
        round(kib["dram"]),
        round(kib["on_chip_flash"] + kib["off_chip_flash"]),
        compiled,
    )
