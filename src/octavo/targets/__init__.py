"""What devices and sets of kernels take: facts with their sources, and models held against them.

One file per target; `TARGETS` lists them by name. A new target is a new file and a line here.
"""

from __future__ import annotations

from collections.abc import Mapping

from octavo.errors import RecipeError
from octavo.targets.edgetpu import EDGETPU
from octavo.targets.ethosu import ETHOSU55, ETHOSU65, ETHOSU85
from octavo.targets.gpu import GPU
from octavo.targets.hexagon import HEXAGON
from octavo.targets.rules import Target
from octavo.targets.tflm import TFLM
from octavo.targets.xnnpack import XNNPACK

_ALL = (TFLM, EDGETPU, ETHOSU55, ETHOSU65, ETHOSU85, XNNPACK, GPU, HEXAGON)
TARGETS: Mapping[str, Target] = {target.name: target for target in _ALL}


def find(name: str | Target) -> Target:
    """The target of that name.

    Raises:
      RecipeError: there is none; lists those that there are.
    """
    if isinstance(name, Target):
        return name
    if name not in TARGETS:
        raise RecipeError(f"target {name!r} is unknown: choose one of {', '.join(TARGETS)}")
    return TARGETS[name]
