"""What octavo finds on this machine: versions, extras, and whether its core works. For `octavo doctor` and bug reports.

Which packages an extra brings is read from octavo's own metadata, never written down a second time; what an extra is
for stands here. Nothing heavy is imported: a framework may be broken, and the others still have to be told of.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

import octavo

DISTRIBUTION = "octavo"

# Extra -> what it is for, in the order of the report. Extras for developers (`DEVELOPERS`) aren't told of.
PURPOSES = {
    "keras": "Keras models and JAX functions: octavo demo, octavo convert model.keras, octavo.qat",
    "flax": "Flax NNX modules",
    "torch": "PyTorch modules: octavo convert model.pt2",
    "report": "pages: octavo compare --html, octavo demo --html",
    "images": "folders of images as samples",
    "tflm": "the kernels of TensorFlow Lite for Microcontrollers: octavo compare --kernels tflm",
    "vela": "compiling for Ethos-U",
    "dask": "work on many machines, with Dask",
    "ray": "work on many machines, with Ray",
}
DEVELOPERS = ("bench", "dev", "docs")

# Commands that are no Python packages of this environment -> what they are for, and how to get them.
PROGRAMS = {"onnx2tf": ("ONNX files: octavo convert model.onnx", "pipx install onnx2tf")}

# What makes integer models quick, as /proc/cpuinfo calls it.
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")


@dataclass(frozen=True)
class Package:
    """A package that octavo needs, or can use.

    Attributes:
      name: as on PyPI.
      needed: the versions that octavo takes, such as ">=2.3"; "" for any.
      extra: the extra that brings it; "" for what every installation has.
      version: what is installed; None if it isn't.
      fits: whether that version is one that octavo takes.
    """

    name: str
    needed: str
    extra: str
    version: str | None
    fits: bool


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found.

    Attributes:
      versions: of octavo and Python.
      machine: system, processor, cores, and the features that integer kernels use.
      packages: of the core and of every extra for users.
      programs: name -> path, None where it is missing.
      problems: why the core doesn't work, one line each; empty if it does.
      notes: what else is odd about the installation.
    """

    versions: dict[str, str]
    machine: dict[str, Any]
    packages: tuple[Package, ...]
    programs: dict[str, str | None]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        return not self.problems

    def missing(self) -> dict[str, list[Package]]:
        """Extra -> its packages that aren't there or have a version that octavo doesn't take."""
        found: dict[str, list[Package]] = {}
        for package in self.packages:
            if package.extra and not package.fits:
                found.setdefault(package.extra, []).append(package)
        return found

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it, with the command that brings each missing extra."""
        brings = {extra: command_for(extra) for extra in self.missing()}
        return {**asdict(self), "healthy": self.healthy, "missing": brings}


def command_for(extra: str) -> str:
    """What installs an extra."""
    return f'pip install {"--pre " if extra == "tflm" else ""}"{DISTRIBUTION}[{extra}]"'


def examine() -> Diagnosis:
    """Look at everything; runs a model of one op on LiteRT."""
    packages = tuple(_packages())
    problems = [
        f"{p.name} {p.version or 'is missing'}: octavo needs {p.name}{p.needed}: pip install -U {DISTRIBUTION}"
        for p in packages
        if not p.extra and not p.fits
    ]
    problems += _run_tiny_model()
    return Diagnosis(
        {"octavo": octavo.__version__, "python": platform.python_version()},
        _machine(),
        packages,
        {name: shutil.which(name) for name in PROGRAMS},
        tuple(problems),
        tuple(_oddities()),
    )


def _oddities() -> Iterator[str]:
    try:
        installed = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        yield "octavo isn't installed as a package, only found on the path: what its extras bring isn't known"
        return
    if installed != octavo.__version__:
        yield f"octavo {octavo.__version__} runs, but {installed} is installed: another copy is on the path"


def _packages() -> Iterator[Package]:
    """The packages that octavo's own metadata names, core first, extras in the order of PURPOSES."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return
    requirements = [Requirement(line) for line in lines]
    for extra in ("", *PURPOSES):
        for requirement in requirements:
            core = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if core != (extra == ""):
                continue
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield _package(requirement, extra)


def _package(requirement: Requirement, extra: str) -> Package:
    version = None
    try:
        version = metadata.version(requirement.name)
        fits = requirement.specifier.contains(version, prereleases=True)
    except (metadata.PackageNotFoundError, InvalidRequirement):
        fits = False
    return Package(requirement.name, str(requirement.specifier), extra, version, fits)


def _machine() -> dict[str, Any]:
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "processor": _cpuinfo("model name") or platform.processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(affinity(0)) if affinity else os.cpu_count(),
        "features": [name for name in _FEATURES if name in (_cpuinfo("flags") or _cpuinfo("Features")).split()],
    }


def _cpuinfo(key: str) -> str:
    """The first line of that key in /proc/cpuinfo, "" where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    values = (value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key)
    return next(values, "")


def _run_tiny_model() -> list[str]:
    """Write a model that doubles its input and run it; a line for what went wrong."""
    try:
        import numpy as np

        from octavo.graph import DType, Graph, Op, Program, Signature, Tensor
        from octavo.runtime.runner import Runner
        from octavo.tflite import write

        x, y = (Tensor(name, DType.FLOAT32, (1, 2)) for name in ("x", "y"))
        double = Op("ADD", [x, x], [y], {"fusedActivationFunction": 0, "potScaleInt16": False}, "AddOptions")
        graph = Graph("main", [x, y], [x], [y], [double])
        program = Program([graph], [Signature("serving_default", [("x", x)], [("y", y)], graph)])
        got = np.asarray(Runner(write(program))(np.array([[1, 2]], np.float32)))
    except Exception as error:  # whatever a broken installation raises
        return [f"LiteRT can't run a model of one op: {type(error).__name__}: {' '.join(str(error).split())[:300]}"]
    return [] if np.array_equal(got, [[2, 4]]) else [f"LiteRT computes 1 + 1 and 2 + 2 as {got}"]
