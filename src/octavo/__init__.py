"""octavo: fold a model to eight bits, and see what it cost.

Names are imported when they are first used (PEP 562), so that `import octavo` costs nothing, NumPy included.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.api import convert, dequantize, fix_shapes, load, quantize
    from octavo.bundle import Bundle, bundle
    from octavo.calibrate.sequences import Sequences
    from octavo.compare import Comparison, compare
    from octavo.datasets.shards import Shards, shards
    from octavo.errors import (
        ConversionError,
        DataError,
        GraphError,
        MissingDependencyError,
        ModelFileError,
        NotIntegerError,
        OctavoError,
        RecipeError,
        Refusal,
        RunError,
        TargetError,
    )
    from octavo.inspect import Inspection, inspect
    from octavo.marks import fake_quant
    from octavo.measure import measure
    from octavo.metadata import Metadata, read_metadata, write_metadata
    from octavo.model import Model
    from octavo.recipe import (
        IO,
        Recipe,
        Rule,
        Scheme,
        dynamic_range,
        float16,
        integer,
        keep_float,
        weight_only,
    )
    from octavo.recipe_file import load_recipe, save_recipe
    from octavo.runtime.evaluate import Evaluation, evaluate
    from octavo.runtime.runner import Runner
    from octavo.scaling import fold_scaling
    from octavo.search import SearchResult, search
    from octavo.targets.check import Check, Finding, check

__version__ = "0.1.0"

# Module -> the public names that it defines.
_PUBLIC = {
    "octavo.api": ("convert", "dequantize", "fix_shapes", "load", "quantize"),
    "octavo.bundle": ("Bundle", "bundle"),
    "octavo.calibrate.sequences": ("Sequences",),
    "octavo.compare": ("Comparison", "compare"),
    "octavo.datasets.shards": ("Shards", "shards"),
    "octavo.errors": (
        "ConversionError",
        "DataError",
        "GraphError",
        "MissingDependencyError",
        "ModelFileError",
        "NotIntegerError",
        "OctavoError",
        "RecipeError",
        "Refusal",
        "RunError",
        "TargetError",
    ),
    "octavo.inspect": ("Inspection", "inspect"),
    "octavo.marks": ("fake_quant",),
    "octavo.measure": ("measure",),
    "octavo.metadata": ("Metadata", "read_metadata", "write_metadata"),
    "octavo.model": ("Model",),
    "octavo.recipe": (
        "IO",
        "Recipe",
        "Rule",
        "Scheme",
        "dynamic_range",
        "float16",
        "integer",
        "keep_float",
        "weight_only",
    ),
    "octavo.recipe_file": ("load_recipe", "save_recipe"),
    "octavo.scaling": ("fold_scaling",),
    "octavo.search": ("SearchResult", "search"),
    "octavo.targets.check": ("Check", "Finding", "check"),
    "octavo.runtime.evaluate": ("Evaluation", "evaluate"),
    "octavo.runtime.runner": ("Runner",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "IO",
    "Bundle",
    "Check",
    "Comparison",
    "ConversionError",
    "DataError",
    "Evaluation",
    "Finding",
    "GraphError",
    "Inspection",
    "Metadata",
    "MissingDependencyError",
    "Model",
    "ModelFileError",
    "NotIntegerError",
    "OctavoError",
    "Recipe",
    "RecipeError",
    "Refusal",
    "Rule",
    "RunError",
    "Runner",
    "Scheme",
    "SearchResult",
    "Sequences",
    "Shards",
    "TargetError",
    "__version__",
    "bundle",
    "check",
    "compare",
    "convert",
    "dequantize",
    "dynamic_range",
    "evaluate",
    "fake_quant",
    "fix_shapes",
    "float16",
    "fold_scaling",
    "inspect",
    "integer",
    "keep_float",
    "load",
    "load_recipe",
    "measure",
    "quantize",
    "read_metadata",
    "save_recipe",
    "search",
    "shards",
    "weight_only",
    "write_metadata",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'octavo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


class _Package(ModuleType):
    """Keeps `octavo.compare` the function: importing octavo/compare.py would put the module in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

# Loading a model that was saved in training needs `import octavo` and no more; Keras itself isn't imported here.
from octavo.qat.registration import register  # noqa: E402

register()
