"""Rows of files that are to do the same: bytes, accuracy, and milliseconds in turns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import peers
from common import table
from peers import Peer

import octavo
from octavo import numerics
from octavo.model import Model
from octavo.recipe import Recipe, Scheme
from octavo.runtime.latency import measure

TITLES = ("variant", "bytes", "top-1", "agrees with float", "SQNR dB", "ms per sample", "seconds to make")


@dataclass
class Judge:
    """Takes files one by one and holds each against the float model on the same samples.

    Attributes:
      model: the float model.
      x, labels: what evaluates; labels may be None.
      decimals: of milliseconds.
    """

    model: Model
    x: np.ndarray
    labels: np.ndarray | None
    decimals: int = 2
    files: dict[str, bytes] = field(default_factory=dict)
    rows: list[list[str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wanted = self.predict(bytes(self.model))

    def predict(self, content: bytes) -> np.ndarray:
        outputs = octavo.Runner(content).predict(self.x)
        if isinstance(outputs, dict):
            raise SystemExit("this benchmark is for models with one output")
        return outputs.reshape(len(self.x), -1)

    def take(self, name: str, content: bytes, seconds: float = 0.0) -> None:
        """Add a row for a file."""
        got = self.predict(content)
        top1 = "" if self.labels is None else f"{np.mean(got.argmax(1) == self.labels):.2%}"
        agreement = np.mean(got.argmax(1) == self.wanted.argmax(1))
        noise = numerics.sqnr_db(self.wanted, got)
        shown = f"{noise:.1f}" if noise < peers.COPIED else ""
        self.files[name] = content
        self.rows.append(
            [name, f"{len(content):,}", top1, f"{agreement:.2%}", shown, "", f"{seconds:.1f}" if seconds else ""]
        )
        print(" | ".join(self.rows[-1]), flush=True)

    def take_ours(self, name: str, recipe: Recipe | Scheme, samples: np.ndarray | None = None) -> None:
        """Add a row for what octavo makes of the model."""
        start = time.perf_counter()
        content = bytes(octavo.quantize(self.model, recipe, samples))
        self.take(f"octavo {name}", content, time.perf_counter() - start)

    def take_peer(self, peer: Peer, samples: Mapping[str, np.ndarray], modes: Sequence[str]) -> None:
        """Add a row for each mode of a peer, or the reason why there is none."""
        for mode, made in peers.make(peer, self.model, samples, modes).items():
            name = f"{peer.name} {mode}"
            if made.error:
                self.missing.append(f"{name}: {made.error}")
                print(self.missing[-1], flush=True)
            else:
                self.take(name, made.content, made.seconds)

    def table(self) -> str:
        """All rows, timed now; what is missing stands below."""
        found = measure(self.files)
        for row in self.rows:
            row[TITLES.index("ms per sample")] = f"{found[row[0]].median:.{self.decimals}f}"
        lost = "".join(f"\n- No row for {line}" for line in self.missing)
        return table(TITLES, self.rows) + (f"\n{lost}" if lost else "")
