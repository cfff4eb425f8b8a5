"""What can be asked for, and what is refused in words; recipes in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import octavo
from octavo.errors import RecipeError
from octavo.recipe import IO, Recipe, Rule
from octavo.recipe_file import from_dict


def refusal(make: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("uint8", IO("uint8", "uint8")),
        (" int8 ", IO("int8", "int8")),
        ("input=uint8, output=int8", IO("uint8", "int8")),
        ("output=int8", IO("float32", "int8")),
        ({"input": "int16"}, IO("int16", "float32")),
        (IO("uint8", "float32"), IO("uint8", "float32")),
    ],
)
def test_types_of_inputs_and_outputs(given: Any, expected: IO) -> None:
    assert IO.parse(given) == expected


def test_types_that_dont_exist() -> None:
    assert refusal(lambda: IO.parse("int4")) == "io input='int4': choose one of float32, uint8, int8, int16"
    assert refusal(lambda: IO("int8", "bool")) == "io output='bool': choose one of float32, uint8, int8, int16"
    sides = "io side 'inputs' is unknown: write 'uint8' or 'input=uint8,output=float32'"
    assert refusal(lambda: IO.parse("inputs=int8")) == sides


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activations": 4}, "activations=4: LiteRT has kernels for 8 and 16 bits"),
        ({"effort": "most"}, "effort='most': choose one of fast, balanced, best"),
        ({"weights": 16}, "weights=16: LiteRT has kernels for weights of 8 and 4 bits"),
        ({"io": "int16"}, "io input=int16 with 8-bit activations: choose float32, uint8, int8"),
        ({"io": "output=int16"}, "io output=int16 with 8-bit activations: choose float32, uint8, int8"),
        ({"io": "uint8", "activations": 16}, "io input=uint8 with 16-bit activations: choose float32, int16"),
    ],
)
def test_integers_that_litert_hasnt_got(arguments: dict[str, Any], message: str) -> None:
    assert refusal(lambda: octavo.integer(**arguments)) == message


@pytest.mark.parametrize(
    ("arguments", "types"),
    [
        ({}, IO()),
        ({"fallback": False}, IO("int8", "int8")),
        ({"fallback": False, "activations": 16}, IO("int16", "int16")),
        ({"io": "uint8"}, IO("uint8", "uint8")),
    ],
)
def test_types_follow_from_what_else_is_asked_for(arguments: dict[str, Any], types: IO) -> None:
    assert octavo.integer(**arguments).io == types


def test_the_last_rule_that_matches_wins() -> None:
    float_, small = octavo.keep_float(), octavo.float16()
    recipe = Recipe(octavo.integer(), (Rule(float_, "CONV_2D"), Rule(small, name="block_*"), Rule(float_, name="[x]")))
    assert recipe.scheme_for("CONV_2D", "stem") is float_
    assert recipe.scheme_for("CONV_2D", "block_1") is small
    assert recipe.scheme_for("ADD", "block_1") is small
    assert recipe.scheme_for("ADD", "[x]") is recipe.scheme
    assert recipe.scheme_for("ADD", "x") is float_
    assert Rule.exactly(small, ("ADD", "[x]")).matches("ADD", "[x]")
    assert not Rule.exactly(small, ("ADD", "[x]")).matches("ADD", "x")


def test_what_is_no_recipe() -> None:
    given: Any = "int8"
    message = "'int8' is no recipe: pass octavo.integer(), octavo.float16(), ... or a Recipe"
    assert refusal(lambda: Recipe.of(given)) == message


@pytest.mark.parametrize(
    "scheme",
    [
        octavo.keep_float(),
        octavo.float16(1),
        octavo.dynamic_range(weights=4, block=32),
        octavo.weight_only(weights=4),
        octavo.integer(False, activations=16),
        octavo.integer(io="input=uint8,output=float32", effort="best", per_channel=False),
    ],
)
def test_a_file_gives_back_what_was_written(scheme: octavo.Scheme, tmp_path: Path) -> None:
    recipe = Recipe(scheme, (Rule(octavo.keep_float(), name="head/*"), Rule(octavo.float16(), "ADD")))
    assert octavo.load_recipe(octavo.save_recipe(recipe, tmp_path / "recipe.json")) == recipe


def test_what_is_at_its_default_is_left_out(tmp_path: Path) -> None:
    file = octavo.save_recipe(octavo.integer(fallback=False, weights=4), tmp_path / "recipe.json")
    scheme = {"to": "integer", "fallback": False, "weights": 4}
    assert json.loads(file.read_text()) == {"octavo_recipe": 1, "scheme": scheme, "rules": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the recipe is a JSON object, not []"),
        ({"octavo_recipe": 1, "rule": []}, "the recipe: unknown key 'rule'; known are octavo_recipe, scheme, rules"),
        ({"octavo_recipe": 2}, 'a recipe starts with "octavo_recipe": 1, not 2'),
        ({"octavo_recipe": 1, "rules": 3}, '"rules" is a list of objects, not 3'),
        (
            {"octavo_recipe": 1, "scheme": {"to": "int8"}},
            'the scheme: a scheme is an object with "to": one of float32, float16, dynamic_range, weight_only, '
            "integer; not {'to': 'int8'}",
        ),
        (
            {"octavo_recipe": 1, "scheme": {"to": "float16", "weights": 8}},
            "the scheme: unknown key 'weights'; known are to, min_elements",
        ),
        (
            {"octavo_recipe": 1, "scheme": {"to": "float16", "min_elements": True}},
            'the scheme: "min_elements" can\'t be True',
        ),
        (
            {"octavo_recipe": 1, "scheme": {"to": "integer", "weights": 3}},
            "the scheme: weights=3: LiteRT has kernels for weights of 8 and 4 bits",
        ),
        (
            {"octavo_recipe": 1, "scheme": {"to": "float32"}, "rules": [{"scheme": {"to": "float32"}}]},
            'rule 0: give "kind", "name" or both, for the ops that it is meant for',
        ),
        (
            {"octavo_recipe": 1, "scheme": {"to": "float32"}, "rules": [{"kind": 3}]},
            'rule 0: "kind" is a string, not 3',
        ),
        ({"octavo_recipe": 1, "scheme": {"to": "float32"}, "rules": ["x"]}, "rule 0 is a JSON object, not 'x'"),
    ],
)
def test_content_that_is_refused(content: Any, message: str) -> None:
    assert refusal(lambda: from_dict(content)) == message


def test_files_that_cant_be_read_or_written(tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    assert refusal(lambda: octavo.load_recipe(missing)) == (
        f"can't read the recipe {missing}: No such file or directory"
    )
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert refusal(lambda: octavo.load_recipe(broken)).startswith(f"{broken} is no JSON file: Expecting property name")
    broken.write_text("[]")
    assert refusal(lambda: octavo.load_recipe(broken)) == f"{broken}: the recipe is a JSON object, not []"
    assert refusal(lambda: octavo.save_recipe(octavo.float16(), tmp_path)) == (
        f"can't write the recipe: {tmp_path}: is a folder; name a file in it"
    )
