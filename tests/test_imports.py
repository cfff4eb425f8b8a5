"""`import octavo` is light, and every public name is where it says."""

import ast
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import octavo

HEAVY = {
    "ai_edge_litert",
    "click",
    "flatbuffers",
    "jax",
    "keras",
    "litert_converter",
    "numpy",
    "rich",
    "tensorflow",
    "torch",
}
FRAMEWORKS = {"jax", "keras", "litert_converter", "tensorflow", "torch"}
SLOWEST_IMPORT = 0.25  # seconds; measured: 0.01


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a new interpreter has imported after `statement`."""
    program = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def typed_names() -> dict[str, str]:
    """Name -> module, as the TYPE_CHECKING block of octavo/__init__.py tells type checkers."""
    tree = ast.parse(Path(octavo.__file__).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def test_import_octavo_imports_no_library():
    assert modules_after("import octavo") & HEAVY == set()


def test_import_octavo_is_quick():
    program = "import time; start = time.perf_counter(); import octavo; print(time.perf_counter() - start)"
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in "123"]
    assert min(float(run.stdout) for run in runs) < SLOWEST_IMPORT


def test_command_line_help_imports_no_library():
    heavy = HEAVY - {"click"}
    assert modules_after("import octavo.cli\noctavo.cli.main(['quantize', '--help'])") & heavy == set()


@pytest.mark.parametrize("name", sorted(set(octavo.__all__) - {"__version__"}))
def test_public_name_resolves(name):
    value = getattr(octavo, name)
    assert value.__name__ == name
    assert value.__module__ == octavo._HOME[name]


def test_public_names_import_no_framework():
    names = ", ".join(octavo.__all__)
    assert modules_after(f"from octavo import {names}") & FRAMEWORKS == set()


def test_one_list_of_public_names():
    assert typed_names() == octavo._HOME
    assert sorted([*octavo._HOME, "__version__"]) == sorted(octavo.__all__)
    assert set(octavo.__all__) <= set(dir(octavo))


def test_no_submodule_takes_the_place_of_a_public_name():
    submodules = {module.name for module in pkgutil.iter_modules(octavo.__path__)}
    for name in submodules & set(octavo._HOME):
        program = f"import octavo.{name}, octavo; print(callable(octavo.{name}), callable(octavo.{name}))"
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert run.stdout.split() == ["True", "True"], name


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'octavo' has no attribute 'quantise'"):
        _ = octavo.quantise  # type: ignore[attr-defined]


def test_package_is_typed():
    spec = importlib.util.find_spec("octavo")
    assert spec is not None
    assert (Path(str(spec.origin)).parent / "py.typed").exists()
