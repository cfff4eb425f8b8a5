"""`octavo doctor`: what it says of this environment, and of a broken one."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import octavo
from octavo import doctor
from octavo.cli import main

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found
    return found[0]


def test_every_extra_has_its_purpose() -> None:
    assert {*doctor.PURPOSES, *doctor.DEVELOPERS} == set(PROJECT["optional-dependencies"])


def test_the_core_works_here() -> None:
    found = doctor.examine()
    assert found.healthy, found.problems
    core = {package.name: package for package in found.packages if not package.extra}
    assert core["numpy"].version == metadata.version("numpy")
    assert core["numpy"].fits and core["numpy"].needed.startswith(">=")
    assert found.machine["usable_cores"] >= 1


@pytest.fixture
def requires(monkeypatch):
    """Sets what octavo's metadata names."""

    def say(*lines: str) -> None:
        monkeypatch.setattr(doctor.metadata, "requires", lambda name: list(lines))

    return say


def test_missing_and_old_packages_are_told_by_extra(requires) -> None:
    requires(
        "numpy>=1.26",
        'no-such-package>=2; extra == "report"',
        'numpy>=99; extra == "keras"',
        'numpy>=1; extra == "images"',
        "winning>=1; sys_platform == 'win32' and extra == 'tflm'",
        'ruff; extra == "dev"',
    )
    found = doctor.examine()
    assert found.healthy, "extras are no part of the core"
    assert {extra: [p.name for p in packages] for extra, packages in found.missing().items()} == {
        "keras": ["numpy"],
        "report": ["no-such-package"],
    }
    assert [p.extra for p in found.packages] == ["", "keras", "report", "images"]
    assert found.as_dict()["missing"]["report"] == 'pip install "octavo[report]"'


def test_a_core_that_is_too_old_is_a_problem(requires, capsys) -> None:
    requires("numpy>=99")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert f"octavo doesn't work here: numpy {metadata.version('numpy')}: octavo needs numpy>=99" in out


def test_a_runtime_that_fails_is_a_problem(monkeypatch, capsys) -> None:
    def broken(self: object, model: object) -> None:
        raise ImportError("libsomething.so: cannot open\nshared object file")

    monkeypatch.setattr("octavo.runtime.runner.Runner.__init__", broken)
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] is False
    assert told["problems"] == [
        "LiteRT can't run a model of one op: ImportError: libsomething.so: cannot open shared object file"
    ]


def test_wrong_arithmetic_is_a_problem(monkeypatch) -> None:
    monkeypatch.setattr("octavo.runtime.runner.Runner.__call__", lambda self, x: x)
    assert doctor.examine().problems == ("LiteRT computes 1 + 1 and 2 + 2 as [[1. 2.]]",)


def test_octavo_that_isnt_installed_says_so(monkeypatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", missing)
    monkeypatch.setattr(doctor.metadata, "requires", missing)
    found = doctor.examine()
    assert found.packages == ()
    assert "isn't installed as a package" in found.notes[0]
    assert found.healthy


def test_another_version_on_the_path_is_told(monkeypatch) -> None:
    monkeypatch.setattr(octavo, "__version__", "99.0")
    assert doctor.examine().notes == (
        f"octavo 99.0 runs, but {metadata.version('octavo')} is installed: another copy is on the path",
    )


def test_the_command_prints_versions_and_what_to_do(capsys, monkeypatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"octavo {octavo.__version__} on Python 3.")
    assert re.search(rf"^ai-edge-litert +{re.escape(metadata.version('ai-edge-litert'))} ", out, re.MULTILINE)
    assert "missing for ONNX files: octavo convert model.onnx\n  pipx install onnx2tf" in out
    assert out.endswith("octavo works: a model ran on LiteRT\n")


def test_json_has_it_all(capsys) -> None:
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["versions"]["octavo"] == octavo.__version__
    assert told["healthy"] is True
    assert {package["extra"] for package in told["packages"]} >= {"", "keras"}
