"""The program of `keras_process`: load a saved Keras model on the JAX backend, trace it, and send the result.

    python -m octavo.frontends.keras_worker JOB

JOB is JSON, as `keras_process` writes it. Standard output carries messages: a line of JSON each, and behind one with
"nbytes" that many bytes. The last says "done", or what went wrong. The process ends when its standard input is closed,
so it doesn't outlive the one that asked. It runs alone in its process, so it may do what a library mustn't.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

from octavo.errors import OctavoError

# Keras imports these if they are there, for plots and for callbacks: a third of the time that it takes to import.
_UNUSED = ("matplotlib", "pandas", "requests")


def main() -> None:
    """Do the job that the command line holds; the process ends here."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what Keras and users' modules print is no message
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # removes temporary files on its way out
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for traced in _traced(json.loads(sys.argv[1])):
            told = {"inputs": traced.inputs, "outputs": traced.outputs, "scope": traced.scope}
            _send(out, {**told, "nbytes": len(traced.artifact)}, traced.artifact)
        _send(out, {"done": True})
    except OctavoError as error:
        _send(out, {"error": type(error).__name__, "message": str(error)})
    out.flush()
    os._exit(0)  # all is said; taking JAX down in order takes a while


def _send(out: BinaryIO, message: Mapping[str, Any], data: bytes = b"") -> None:
    out.write(json.dumps(message).encode() + b"\n")
    out.write(data)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # nothing is ever written: it returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)


def _traced(job: Mapping[str, Any]) -> Iterator[Any]:
    from octavo.frontends import keras, keras_files

    with _lean():
        keras.import_keras()
    return keras_files.trace(
        job["path"], inputs=job["inputs"], batch=job["batch"], name=job["where"], imports=job["imports"]
    )


@contextmanager
def _lean() -> Iterator[None]:
    """Import Keras without what it doesn't need here, and without looking for garbage in what stays anyway."""
    absent = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # pyright: ignore[reportArgumentType, reportCallIssue]
    gc.disable()
    try:
        yield
    finally:
        for name in absent:  # the user's own modules may want them
            sys.modules.pop(name, None)
        gc.freeze()
        gc.enable()


if __name__ == "__main__":
    main()
