"""The search for the smallest model within a budget, and the recipe files that it gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import recipe_file
from octavo.errors import RecipeError
from octavo.model import Model
from octavo.recipe import Recipe, Rule
from octavo.search import SearchResult, _hull, search

RNG = np.random.default_rng(5)
IMAGES = RNG.uniform(-1, 1, (48, 8, 8, 3)).astype(np.float32)


def cnn(planted: bool) -> Model:
    """Four convolutions; `planted`: one where a huge weight that meets only zeros ruins the others' rounding."""
    b = Builder(1)
    x = b.input("image", (1, 8, 8, 3))
    for name in ("a", "b", "c", "d"):
        x = b.conv(x, name, 6, act=1 if name != "d" else 0)
    if planted:
        kernel, bias = (next(t for t in b.graph.tensors if t.name == f"c/{part}") for part in ("kernel", "bias"))
        dead = next(t for t in b.graph.tensors if t.name == "b/bias")
        # Channel 5 of b is a sliver above zero, and c scales it up: c's own scale per channel serves only that.
        offset = dead.values.copy()
        offset[5] = -50
        dead.set_values(offset)
        large = kernel.values.copy()
        large[..., 5] = 400.0
        kernel.set_values(large)
        assert bias.size == 6
    return Model(b.program(b.dense(b.reshape(x, "flat", (1, 384)), "logits", 10)))


def test_the_planted_bad_layer_is_the_one_found() -> None:
    found = search(cnn(True), IMAGES, max_drop=0.1, metric="sqnr", precisions=("int8", "float32"))
    worst = found.sensitivities[0]
    assert worst.op == "CONV_2D 'c'"
    assert worst.noise > 10 * found.sensitivities[1].noise
    assert found.precisions["CONV_2D 'c'"] == "float32"
    assert list(found.precisions.values()).count("float32") == 1
    assert found.drop <= 0.1


def test_a_sound_model_needs_no_exceptions() -> None:
    found = search(cnn(False), IMAGES, max_drop=1.0, metric="sqnr", precisions=("int8", "float32"))
    assert set(found.precisions.values()) == {"int8"}
    assert found.recipe.rules == ()


def test_larger_budgets_give_smaller_files() -> None:
    sizes = [search(cnn(False), IMAGES, budget, metric="sqnr").model.nbytes for budget in (0.02, 0.5, 20)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_the_users_metric_decides() -> None:
    labels = octavo.Runner(cnn(False))(IMAGES).argmax(1)
    calls = []

    def right(outputs: np.ndarray, y: np.ndarray) -> float:
        calls.append(len(y))
        return float(np.mean(outputs.argmax(1) == y))

    found = search(cnn(False), IMAGES, 5.0, metric=right, evaluation=(IMAGES, labels))
    assert len(calls) == 1 + len(found.measured)
    assert found.drop == pytest.approx(100 * (1 - right(octavo.Runner(found.model)(IMAGES), labels)))
    assert found.drop <= 5.0


def test_the_recipe_can_be_saved_edited_and_used_again(tmp_path: Path) -> None:
    found = search(cnn(True), IMAGES, max_drop=0.1, metric="sqnr", precisions=("int8", "float32"))
    file = octavo.save_recipe(found.recipe, tmp_path / "recipe.json")
    again = octavo.load_recipe(file)
    assert again == found.recipe
    assert bytes(octavo.quantize(cnn(True), again, IMAGES)) == bytes(found.model)


def test_the_schemes_effort_and_scales_are_kept() -> None:
    """What is searched with one scale per tensor is found again from the recipe, bit for bit."""
    base = octavo.integer(per_channel=False)
    found = search(cnn(False), IMAGES, 3.0, metric="sqnr", precisions=("int8", "float32"), scheme=base)
    assert all(t.qparams is None or t.qparams.axis is None for t in found.model.program.tensors())
    assert bytes(octavo.quantize(cnn(False), found.recipe, IMAGES)) == bytes(found.model)


def test_an_impossible_budget_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"max_drop=1e-09.*add 'int16'"):
        search(cnn(False), IMAGES, 1e-9, metric="sqnr", precisions=("int8",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precisions": ("int3",)}, "int3"),
        ({"objective": "beauty"}, "beauty"),
        ({"metric": "f1"}, "f1"),
        ({"metric": lambda outputs, y: 0.0}, "labels"),
    ],
)
def test_wrong_requests(arguments: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        search(cnn(False), IMAGES, **arguments)


def test_the_hull_leaves_out_what_no_budget_would_choose() -> None:
    points = [(1.0, 10.0, "a"), (2.0, 9.5, "b"), (3.0, 1.0, "c"), (4.0, 2.0, "d"), (9.0, 0.0, "e")]
    assert [name for _, _, name in _hull(points)] == ["a", "c", "e"]


# ---------------------------------------------------------------- recipe files

RECIPES = [
    Recipe(octavo.float16()),
    Recipe(octavo.dynamic_range(weights=4)),
    Recipe(octavo.weight_only(min_elements=7)),
    Recipe(octavo.integer(fallback=False, io="uint8")),
    Recipe(octavo.integer(activations=16, fallback=False)),
    Recipe(octavo.integer(weights=4, effort="best", per_channel=False, io="input=uint8,output=float32")),
    Recipe(octavo.integer(), (Rule(octavo.keep_float(), "SOFTMAX"), Rule(octavo.integer(weights=4), name="block/*"))),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_survive_the_file(recipe: Recipe, tmp_path: Path) -> None:
    assert octavo.load_recipe(octavo.save_recipe(recipe, tmp_path / "r.json")) == recipe


def test_defaults_are_left_out() -> None:
    assert recipe_file.to_dict(Recipe(octavo.integer()))["scheme"] == {"to": "integer"}
    assert recipe_file.to_dict(Recipe(octavo.integer(fallback=False)))["scheme"] == {"to": "integer", "fallback": False}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON"),
        ("[]", "JSON object"),
        ('{"scheme": {"to": "integer"}}', '"octavo_recipe": 1, not None'),
        ('{"octavo_recipe": 2, "scheme": {"to": "integer"}}', "not 2"),
        ('{"octavo_recipe": 1, "scheme": {"to": "int8"}}', "one of float32, float16"),
        ('{"octavo_recipe": 1}', "the scheme"),
        ('{"octavo_recipe": 1, "scheme": {"to": "integer", "bits": 8}}', "unknown key 'bits'"),
        ('{"octavo_recipe": 1, "scheme": {"to": "integer", "weights": true}}', '"weights" can\'t be True'),
        ('{"octavo_recipe": 1, "scheme": {"to": "integer", "weights": 5}}', "weights=5"),
        ('{"octavo_recipe": 1, "scheme": {"to": "integer"}, "rules": {}}', "list of objects"),
        ('{"octavo_recipe": 1, "scheme": {"to": "integer"}, "rules": [{"scheme": {"to": "float32"}}]}', "rule 0: give"),
        ('{"octavo_recipe": 1, "scheme": {"to": "integer"}, "rules": [{"kind": 3, "scheme": {}}]}', "is a string"),
        ('{"octavo_recipe": 1, "scheme": {"to": "integer"}, "extra": 1}', "unknown key 'extra'"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_wrong_files_are_named_with_the_place(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(content)
    with pytest.raises(RecipeError) as caught:
        octavo.load_recipe(file)
    assert message in str(caught.value)
    assert "wrong.json" in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"can't read .*none\.json"):
        octavo.load_recipe(tmp_path / "none.json")


def test_files_are_plain_json(tmp_path: Path) -> None:
    file = octavo.save_recipe(RECIPES[-1], tmp_path / "r.json")
    rules = json.loads(file.read_text())["rules"]
    assert rules[1] == {"name": "block/*", "scheme": {"to": "integer", "weights": 4}}
    assert SearchResult.__name__ == "SearchResult"
