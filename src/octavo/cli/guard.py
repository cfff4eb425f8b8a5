"""A crash of LiteRT ends the process that it runs in; the command line tells of it in one line all the same.

The command's work is done by a fork of the process that the shell started, made before anything large is imported (some
20 ms with all that goes with it). The first process only waits, passes signals on, and says what happened if the other
one dies. So whatever a command runs, on whatever data, can't take the command line down with it. Without `fork`
(Windows), or where forking is unsafe (macOS), commands run in the one process, as the library always does.
"""

from __future__ import annotations

import faulthandler
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from octavo.graph import Program

_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL) if os.name == "posix" else ()
_PROBE_SECONDS = 60
_SHOW_CURSOR = "\x1b[?25h\n"  # a progress bar hides it


def guarded(work: Callable[[], int]) -> int:
    """The exit status of `work`, which is done in a fork of this process where that is possible.

    In the fork the call returns what `work` returns, as it does here if that crashes: 1 then, and a line on stderr.
    """
    if sys.platform != "linux" or threading.active_count() > 1:
        return work()
    watched = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    alive, parent = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
        return work()
    os.close(alive)
    status = _wait(child, watched)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    died_of = signal.Signals(os.WTERMSIG(status))
    if died_of not in (*_CRASHES, signal.SIGKILL):  # somebody ended it, and wants to see that it ended
        signal.signal(died_of, signal.SIG_DFL)
        os.kill(os.getpid(), died_of)
    if sys.stderr.isatty():
        click.echo(_SHOW_CURSOR, err=True, nl=False)
    click.echo(f"octavo: error: {_reason(died_of, sys.argv[1:])}", err=True)
    return 1


def _end_with_parent(alive: int) -> None:
    """Whoever kills the process that the shell started means this one."""
    os.read(alive, 1)  # nothing is ever written: it returns when the other end is closed
    os.kill(os.getpid(), signal.SIGKILL)


def _wait(child: int, watched: Sequence[signal.Signals]) -> int:
    """How the child ended; signals that reached only this process are passed on."""
    while True:
        told = signal.sigwaitinfo(watched)
        if told.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
        elif told.si_pid:  # the terminal, process 0 as it were, has signalled the child as well
            os.kill(child, told.si_signo)


def _reason(died_of: signal.Signals, arguments: Sequence[str]) -> str:
    """Why the child died, on one line."""
    command = shlex.join(["octavo", *arguments])
    if died_of == signal.SIGKILL:
        return f"the system killed (SIGKILL) {command}: it was probably out of memory"
    for argument in arguments:
        path = Path(argument.rpartition("=")[2])
        if path.suffix.lower() == ".tflite" and path.is_file() and (found := culprit(path)):
            return (
                f"{path}: LiteRT crashes ({died_of.name}) at {found}; the file is damaged, or asks for what this "
                "version of LiteRT can't do: use another file, or change that op"
            )
    return f"the process crashed ({died_of.name}: {signal.strsignal(died_of)}) in {command}: please report it"


def culprit(path: Path) -> str:
    """The op of a `.tflite` file at which LiteRT crashes on zeros, with its kernels; "" if it doesn't.

    Each try is a process of its own, on the first half of the ops that are in question.
    """
    from octavo import tflite
    from octavo.errors import OctavoError

    try:
        program = tflite.read(path)
    except OctavoError:
        return ""
    for kernels in ("xnnpack", "builtin", "reference"):
        if not _crashes(path.read_bytes(), kernels):
            continue
        low, high = 0, len(program.main.ops)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _crashes(_first_ops(path, middle), kernels) else (middle, high)
        return f"{program.main.ops[low].name}, with its {kernels} kernels" if program.main.ops else ""
    return ""


def _first_ops(path: Path, count: int) -> bytes:
    """A model of only the first ops of the main subgraph."""
    from octavo import tflite

    program: Program = tflite.read(path)
    main = program.main
    main.ops, main.outputs, program.signatures = main.ops[:count], list(main.ops[count - 1].outputs), []
    return tflite.write(program)


def _crashes(data: bytes, kernels: str) -> bool:
    """Whether LiteRT kills a process in which it runs the model on zeros."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(status := os.waitpid(child, 0)[1]) and os.WTERMSIG(status) in _CRASHES
    try:
        signal.alarm(_PROBE_SECONDS)
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _run_on_zeros(data, kernels)
    finally:  # whatever LiteRT refuses is no crash
        os._exit(0)


def _run_on_zeros(data: bytes, kernels: str) -> None:
    import numpy as np

    from octavo.runtime.session import Session

    session = Session(data, kernels)
    session.invoke([np.zeros(port.shape, port.dtype) for port in session.inputs])
