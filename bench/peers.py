"""The peers: which releases, what each is run by, and its files in the modes that are asked for."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras_copy
import numpy as np
from common import HERE, PACKAGES, Failed, environment, run

import octavo
from octavo import numerics
from octavo.model import Model

COPIED = 80.0  # decibels at least between the network and what a peer's float32 file computes


@dataclass(frozen=True)
class Peer:
    """A peer: an environment of its own, and the script that runs there.

    Attributes:
      name: in the tables.
      environment: its name in `common.PACKAGES`.
      script: in this folder; peer_side.py says how it is called.
      copied: it starts from a copy of the network (`keras_copy`), else from the `.tflite` file.
      pythons: the versions of Python that it is for, if not for all.
      together: it makes all files in one run, which takes what each is said to take.
    """

    name: str
    environment: str
    script: str
    copied: bool = True
    pythons: tuple[str, ...] = ()
    together: bool = False


EDGE = Peer("ai-edge-quantizer", "ai-edge-quantizer", "ai_edge_quantizer_recipes.py", copied=False)
CONVERTER = Peer("TFLiteConverter", "tensorflow", "tflite_converter.py")
ONNX2TF = Peer("onnx2tf", "onnx2tf", "onnx2tf_integer.py", pythons=("3.11", "3.12"), together=True)
MCT = Peer("Sony MCT", "mct", "mct_ptq.py", pythons=("3.11", "3.10"))
TFMOT = Peer("tfmot", "qat", "tfmot_qat.py")


def releases(listed: Iterable[Peer]) -> str:
    """The packages that the peers are, for the text above a table."""
    return ", ".join(f"{peer.name} ({' '.join(PACKAGES[peer.environment][:2])})" for peer in listed)


@dataclass(frozen=True)
class Made:
    """A peer's file, and the seconds that it took; `error` says why there is none."""

    content: bytes = b""
    seconds: float = 0.0
    error: str = ""


def make(peer: Peer, model: Model, samples: Mapping[str, np.ndarray], modes: Sequence[str]) -> dict[str, Made]:
    """What a peer makes of a float model in each of the modes.

    If it starts from a copy of the network, its own float32 file is compared with the model first.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / ("copy.json" if peer.copied else "model.tflite")
        asked = list(modes)
        if peer.copied:
            if why := keras_copy.why_not(model):
                return dict.fromkeys(modes, Made(error=why))
            keras_copy.write(model, source)
            asked = ["float32", *(mode for mode in modes if mode != "float32")]
        else:
            source.write_bytes(bytes(model))
        np.savez(folder / "samples.npz", **dict(samples))
        made = call(peer, source, folder, asked)
        if peer.copied and (why := made["float32"].error or differs(model, made["float32"], samples["x"])):
            return dict.fromkeys(modes, Made(error=why))
        return {mode: made[mode] for mode in modes}


def call(peer: Peer, source: Path, folder: Path, modes: Sequence[str]) -> dict[str, Made]:
    """Run the peer's script on samples.npz in `folder`."""
    try:
        python = environment(peer.environment, peer.pythons)
        said = run(
            [python, str(HERE / peer.script), str(source), str(folder / "samples.npz"), str(folder), *modes]
        ).said
    except Failed as failed:
        return dict.fromkeys(modes, Made(error=str(failed)))
    told = json.loads(said)
    whole = sum(seconds for seconds in told.values() if not isinstance(seconds, str))
    made = {}
    for mode in modes:
        if isinstance(told[mode], str):
            made[mode] = Made(error=told[mode])
        else:
            content = (folder / f"{mode}.tflite").read_bytes()
            made[mode] = Made(content, whole if peer.together else told[mode])
    return made


def differs(model: Model, made: Made, x: np.ndarray) -> str:
    """Why a peer's float32 file isn't the model; "" if it is."""
    wanted, got = (np.asarray(octavo.Runner(each).predict(x[:8])).reshape(8, -1) for each in (model, made.content))
    alike = numerics.sqnr_db(wanted, got)
    return "" if alike > COPIED else f"its float32 file is {alike:.1f} dB from the model: that is another network"
