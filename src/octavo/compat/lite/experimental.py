"""`tf.lite.experimental`: what of it has a counterpart."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from octavo.errors import RecipeError

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import OpResolverType, load_delegate

_ELSEWHERE = {
    "QuantizationDebugger": "octavo.inspect(float_model, small_model, samples) ranks the layers by the error they add",
    "QuantizationDebugOptions": "octavo.Recipe and octavo.Rule keep single ops in float; see docs/accuracy.md",
    "authoring": "octavo.convert(function, inputs=[...]) says which op LiteRT doesn't have",
}

__all__ = ["Analyzer", "OpResolverType", "load_delegate"]


class Analyzer:
    """Shows what a file holds."""

    @staticmethod
    def analyze(
        model_path: str | os.PathLike[str] | None = None,
        model_content: bytes | None = None,
        gpu_compatibility: bool = False,
    ) -> None:
        """Print the ops of a model, as `octavo show` does.

        Raises:
          RecipeError: neither or both of path and content; or `gpu_compatibility`, which octavo can't judge.
          ModelFileError: the file is missing or damaged.
        """
        from octavo.api import load
        from octavo.report.terminal import show

        source = model_path if model_content is None else model_content
        if source is None or (model_path is not None and model_content is not None):
            raise RecipeError("Analyzer.analyze: give model_path or model_content")
        if gpu_compatibility:
            raise RecipeError("Analyzer.analyze: gpu_compatibility=True can't be honoured: octavo doesn't know GPUs")
        show(load(source).describe())


def __getattr__(name: str) -> Any:
    if name in ("OpResolverType", "load_delegate"):
        from ai_edge_litert import interpreter

        return getattr(interpreter, name)
    hint = f": {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
    raise AttributeError(f"octavo.compat.lite.experimental has no {name!r}{hint}")
