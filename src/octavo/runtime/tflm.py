"""TensorFlow Lite for Microcontrollers on this machine, through the optional package `tflite-micro`.

Its interpreter runs in a child process: it ends the process on some models, writes what goes wrong to stderr, and
shares no library with LiteRT that way. Parent and child exchange pickles; nothing else reads or writes those pipes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import re
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from octavo.errors import MissingDependencyError, RunError
from octavo.graph import DType
from octavo.runtime.session import ModelLike, Session, model_bytes
from octavo.text import printable
from octavo.tflite import read

ARENA = 16 << 20  # bytes, at least; far more than any microcontroller has
_MODULE = "tflite_micro"


class TflmSession:
    """A model on TFLM's kernels, with the calls of `Session` that a `Runner` needs.

    Args:
      model: `.tflite` bytes, a path, or an object with `__bytes__`.
      name: how messages call the model; None takes its file's name.
      arena: bytes that TFLM may use; None gives it more than it can need.

    Raises:
      MissingDependencyError: tflite-micro isn't installed.
      RunError: TFLM refuses the model, or the arena is too small for it; says why.
    """

    def __init__(self, model: ModelLike, name: str | None = None, arena: int | None = None) -> None:
        check_installed()
        described = Session(model, "builtin", name=name)
        self.name, self.inputs, self.outputs = described.name, described.inputs, described.outputs
        self._shapes = [p.shape for p in self.inputs]
        data = model_bytes(model)
        tight = f"an arena of {arena} bytes may be too small for it"
        self._remedy = "quantize it to integer, or use other kernels" if arena is None else tight
        self._stateful = any(t.is_variable or t.dtype is DType.RESOURCE for t in read(data).tensors())
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._child = _start(self._said)
        self._finalizer = weakref.finalize(self, _stop, self._child, self._said)
        self._ask((data, max(ARENA, 12 * len(data)) if arena is None else arena), "can't prepare it")

    def resize(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """TFLM has static shapes only.

        Raises:
          RunError: `shapes` aren't those in the file.
        """
        if [tuple(shape) for shape in shapes] != self._shapes:
            raise RunError(
                f"{self.name}: TFLM can't resize inputs: give samples of {self._shapes}, as the file has them"
            )

    def reset(self) -> None:
        """Bring back the first state: variable tensors are zero, resource variables as CALL_ONCE sets them up."""
        if self._stateful:
            self._ask("reset", "can't reset it")

    def invoke(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run once on arrays in the file's own dtypes and shapes.

        Raises:
          RunError: TFLM fails.
        """
        question = ([np.ascontiguousarray(array) for array in arrays], len(self.outputs))
        return self._ask(question, "can't run it")

    @property
    def arena_bytes(self) -> int | None:
        """Bytes of the arena that TFLM used, kernels' own data included; None if it doesn't tell. After `invoke`."""
        self._ask("allocations", "can't tell its memory")
        found = re.findall(r"Arena allocation total (\d+) bytes", self._stderr())
        return int(found[-1]) if found else None

    def _ask(self, question: Any, what: str) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            pickle.dump(question, self._child.stdin)
            self._child.stdin.flush()
            failed, answer = pickle.load(self._child.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self._child.wait()
            failed, answer = True, f"it ended the process (exit status {code})"
        if failed:
            lines = [line for line in self._stderr().splitlines() if line and "RecordingMicroAllocator" not in line]
            reason = "; ".join(printable(line.strip(" .")) for line in lines[-2:]) or answer
            raise RunError(f"{self.name}: TFLM's kernels {what}: {reason}; {self._remedy}")
        return answer

    def _stderr(self) -> str:
        self._said.seek(0)
        return self._said.read().decode("utf-8", "replace")


def installed() -> bool:
    """Whether tflite-micro is there."""
    return importlib.util.find_spec(_MODULE) is not None


def check_installed() -> None:
    """Ask before work whose result only TFLM can measure.

    Raises:
      MissingDependencyError: tflite-micro isn't installed.
    """
    if not installed():
        raise MissingDependencyError(
            "TFLM's kernels need the package tflite-micro, of which there are only pre-releases: "
            "pip install --pre 'octavo[tflm]'"
        )


def _start(stderr: Any) -> subprocess.Popen[bytes]:
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", "from octavo.runtime import tflm; tflm._serve()"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, "PYTHONPATH": path}
    )


def _stop(child: subprocess.Popen[bytes], said: Any) -> None:
    for pipe in (child.stdin, child.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()
    child.terminate()
    child.wait()
    said.close()


def _serve() -> None:
    """The child: a model first, then arrays to run; each answer is (failed, answer)."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else writes to stdout must not end up among the answers
    interpreter: Any = None
    model: Any = None
    while True:
        try:
            question = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: tuple[bool, Any]
        try:
            if model is None or question == "reset":
                # TFLM's own reset leaves resource variables at zero: CALL_ONCE doesn't run a second time.
                interpreter = None
                model = model or question
                interpreter = _interpreter(*model)
                answer = False, None
            else:
                answer = False, _answer(interpreter, question)
        except Exception as error:  # whatever it is, the parent has to hear of it
            answer = True, f"{type(error).__name__}: {error}"
        pickle.dump(answer, answers)
        answers.flush()


def _interpreter(data: bytes, arena: int) -> Any:
    from tflite_micro.python.tflite_micro import runtime  # pyright: ignore[reportMissingImports]

    return runtime.Interpreter.from_bytes(data, arena_size=arena)


def _answer(interpreter: Any, question: Any) -> Any:
    if question == "allocations":
        return interpreter.print_allocations()
    arrays, outputs = question
    for index, array in enumerate(arrays):
        interpreter.set_input(array, index)
    interpreter.invoke()
    return [np.array(interpreter.get_output(index)) for index in range(outputs)]
