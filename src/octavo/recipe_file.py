"""Recipes as JSON files: to be read, edited, and used again. A file is data and nothing in it is ever run.

    {
      "octavo_recipe": 1,
      "scheme": {"to": "integer", "weights": 4},
      "rules": [
        {"kind": "DEPTHWISE_CONV_2D", "scheme": {"to": "integer"}},
        {"name": "block_1/*", "scheme": {"to": "float32"}}
      ]
    }

"to" is "float32", "float16", "dynamic_range", "weight_only" or "integer"; the other keys of a scheme are the arguments
of the function of that name, and what is left out has its default.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from octavo import recipe as schemes
from octavo.errors import ModelFileError, RecipeError
from octavo.recipe import Recipe, Rule, Scheme
from octavo.tflite.files import write_whole

_VERSION = 1
_MAKERS: Mapping[str, Callable[..., Scheme]] = {
    "float32": schemes.keep_float,
    "float16": schemes.float16,
    "dynamic_range": schemes.dynamic_range,
    "weight_only": schemes.weight_only,
    "integer": schemes.integer,
}
# JSON's types for each argument; bool is an int in Python, so it is told apart by hand.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "min_elements": (int,),
    "weights": (int,),
    "activations": (int,),
    "per_channel": (bool,),
    "fallback": (bool,),
    "effort": (str,),
    "block": (int,),
    "io": (str, dict),
}


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe file.

    Raises:
      RecipeError: missing, no JSON, or with an unknown key or a wrong value; names the file and the place in it.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise RecipeError(f"can't read the recipe {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{file} is no JSON file: {str(error).splitlines()[0]}") from None
    try:
        return from_dict(content)
    except RecipeError as error:
        raise RecipeError(f"{file}: {error}") from None


def save_recipe(recipe: Recipe | Scheme, path: str | os.PathLike[str]) -> Path:
    """Write a recipe file; what is at its default is left out.

    Raises:
      RecipeError: it can't be written.
    """
    file = Path(path)
    try:
        write_whole(file, [(json.dumps(to_dict(Recipe.of(recipe)), indent=2) + "\n").encode()], overwrite=True)
    except ModelFileError as error:
        raise RecipeError(f"can't write the recipe: {error}") from None
    return file


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The content of a recipe file."""
    content: dict[str, Any] = {"octavo_recipe": _VERSION, "scheme": _scheme_to_dict(recipe.scheme)}
    content["rules"] = [
        {key: value for key, value in (("kind", rule.kind), ("name", rule.name)) if value is not None}
        | {"scheme": _scheme_to_dict(rule.scheme)}
        for rule in recipe.rules
    ]
    return content


def _scheme_to_dict(scheme: Scheme) -> dict[str, Any]:
    """Every argument whose value differs from what the scheme's function would choose by itself."""
    given: dict[str, Any] = {
        "weights": scheme.weights.bits if scheme.weights else None,
        "activations": scheme.activations.bits if scheme.activations else None,
        "per_channel": scheme.per_channel,
        "fallback": scheme.fallback,
        "effort": scheme.effort,
        "block": scheme.block,
        "min_elements": scheme.min_elements,
        "io": {"input": scheme.io.input, "output": scheme.io.output},
    }
    maker = _MAKERS[scheme.kind]
    parameters = inspect.signature(maker).parameters
    # First what other defaults depend on, so that `io` is compared with the default of these very bits.
    chosen = {name: given[name] for name in parameters if name != "io" and given[name] != parameters[name].default}
    if "io" in parameters and maker(**chosen).io != scheme.io:
        chosen["io"] = given["io"]
    return {"to": scheme.kind, **chosen}


def from_dict(content: Any) -> Recipe:
    """The recipe that a file's content describes.

    Raises:
      RecipeError: see `load_recipe`.
    """
    _check_keys(content, ("octavo_recipe", "scheme", "rules"), "the recipe")
    if content.get("octavo_recipe") != _VERSION:
        raise RecipeError(f'a recipe starts with "octavo_recipe": {_VERSION}, not {content.get("octavo_recipe")!r}')
    rules = content.get("rules", [])
    if not isinstance(rules, list):
        raise RecipeError(f'"rules" is a list of objects, not {rules!r}')
    scheme = _scheme(content.get("scheme"), "the scheme")
    return Recipe(scheme, tuple(_rule(rule, f"rule {number}") for number, rule in enumerate(rules)))


def _rule(content: Any, where: str) -> Rule:
    _check_keys(content, ("kind", "name", "scheme"), where)
    for key in ("kind", "name"):
        if not isinstance(content.get(key, ""), str):
            raise RecipeError(f'{where}: "{key}" is a string, not {content[key]!r}')
    if "kind" not in content and "name" not in content:
        raise RecipeError(f'{where}: give "kind", "name" or both, for the ops that it is meant for')
    return Rule(_scheme(content.get("scheme"), where), content.get("kind"), content.get("name"))


def _scheme(content: Any, where: str) -> Scheme:
    if not isinstance(content, dict) or content.get("to") not in tuple(_MAKERS):  # whatever "to" is, hashable or not
        raise RecipeError(f'{where}: a scheme is an object with "to": one of {", ".join(_MAKERS)}; not {content!r}')
    maker = _MAKERS[content["to"]]
    allowed = tuple(inspect.signature(maker).parameters)
    _check_keys(content, ("to", *allowed), where)
    arguments = {key: value for key, value in content.items() if key != "to"}
    for key, value in arguments.items():
        wrong_bool = isinstance(value, bool) and bool not in _TYPES[key]
        if wrong_bool or not isinstance(value, _TYPES[key]):
            raise RecipeError(f'{where}: "{key}" can\'t be {value!r}')
    try:
        return maker(**arguments)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def _check_keys(content: Any, allowed: tuple[str, ...], where: str) -> None:
    if not isinstance(content, dict):
        raise RecipeError(f"{where} is a JSON object, not {content!r}")
    unknown = [key for key in content if key not in allowed]
    if unknown:
        raise RecipeError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(allowed)}")
