"""The wheel and the sdist: built, installed into an empty environment, and used there."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest

from test_cli import dense_model

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def test_metadata_names_every_extra_and_what_it_brings(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        told = Parser().parsestr(archive.read(name).decode())
    assert set(told.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    lines = told.get_all("Requires-Dist", [])
    assert sum("extra ==" not in line for line in lines) == len(PROJECT["dependencies"])
    for extra, packages in PROJECT["optional-dependencies"].items():
        assert sum(f"extra == '{extra}'" in line for line in lines) == len(packages), extra


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {name for name in names if not name.startswith("octavo-")}
    sources = {
        f"octavo/{path.relative_to(ROOT / 'src/octavo').as_posix()}"
        for path in (ROOT / "src/octavo").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == sources
    assert {"octavo/py.typed", "octavo/report/page.html"} <= inside


def test_sdist_holds_what_the_tests_read(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "requirements.lock", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= names
    for folder in ("bench", "data", "docs", "examples", "src", "tests", "tools"):
        assert any(name.startswith(f"{folder}/") for name in names), folder


def test_an_empty_environment_can_use_it(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "env", cwd=tmp_path)
    binaries = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    python, octavo = binaries / "python", binaries / "octavo"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    assert "quantize" in run(octavo, "--help", cwd=tmp_path)

    dense_model().save(tmp_path / "model.tflite")
    x = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    run(
        octavo,
        "quantize",
        "model.tflite",
        "-o",
        "small.tflite",
        "--data",
        "data.npz",
        "--to",
        "integer-only",
        cwd=tmp_path,
    )
    assert (tmp_path / "small.tflite").stat().st_size < 0.6 * (tmp_path / "model.tflite").stat().st_size

    told = json.loads(run(octavo, "doctor", "--json", cwd=tmp_path))
    assert told["healthy"] is True
    assert told["missing"]["keras"] == 'pip install "octavo[keras]"'
    # Every public name can be had without any extra.
    listing = "import octavo; [getattr(octavo, name) for name in octavo.__all__]; print(len(octavo.__all__))"
    assert int(run(python, "-c", listing, cwd=tmp_path)) > 20
    # What needs an extra says so, in one line.
    program = (
        "import octavo\ntry: octavo.convert(lambda x: x, inputs=[(1, 2)])\nexcept octavo.OctavoError as e: print(e)"
    )
    assert 'pip install "octavo[keras]"' in run(python, "-c", program, cwd=tmp_path)
