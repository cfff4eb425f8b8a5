"""The order in which a float model is brought into normal form before it is calibrated and planned.

Each pass says in its own file what it rewrites and when it refuses.
"""

from __future__ import annotations

from octavo.graph import Program
from octavo.passes.add_bias import add_bias
from octavo.passes.unpack_constants import unpack_constants

PASSES = (
    unpack_constants,  # first: whatever comes later looks at float32 values
    add_bias,  # the model must run before it can be calibrated
)


def normalise(program: Program) -> list[str]:
    """Run every pass on `program`, in place; returns their notes for the user."""
    return [note for rewrite in PASSES for note in rewrite(program)]
