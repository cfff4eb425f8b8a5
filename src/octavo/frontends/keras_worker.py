"""The program of `keras_process`: load a saved Keras model on the JAX backend, trace it, leave the result in a folder.

    python -m octavo.frontends.keras_worker JOB

JOB is JSON, as `keras_process` writes it. It runs alone in its process, so it may do what a library mustn't.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from octavo.errors import OctavoError

ANSWER = "answer.json"
# Keras imports these if they are there, for plots and for callbacks: a third of the time that it takes to import.
_UNUSED = ("matplotlib", "pandas", "requests")


def main() -> None:
    """Do the job that the command line holds; the process ends here."""
    job = json.loads(sys.argv[1])
    folder = Path(job["folder"])
    try:
        answer = {"traced": [_written(folder, number, one) for number, one in enumerate(_traced(job))]}
    except OctavoError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    (folder / ANSWER).write_text(json.dumps(answer))
    sys.stderr.flush()
    os._exit(0)  # all is written; taking JAX down in order takes a while


def _traced(job: Mapping[str, Any]) -> Iterator[Any]:
    from octavo.frontends import keras, keras_files

    with _lean():
        keras.import_keras()
    return keras_files.trace(
        job["path"], inputs=job["inputs"], batch=job["batch"], name=job["where"], imports=job["imports"]
    )


def _written(folder: Path, number: int, traced: Any) -> dict[str, Any]:
    name = f"{number}.stablehlo"
    (folder / name).write_bytes(traced.artifact)
    return {"artifact": name, "inputs": traced.inputs, "outputs": traced.outputs, "scope": traced.scope}


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
