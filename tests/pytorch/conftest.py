"""These tests need PyTorch, which is too large for the environment of the others: `make test-torch` runs them.

Without `-m torch` this folder isn't even read, so that PyTorch may be missing; with it, a missing PyTorch is an error.
"""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if config.getoption("markexpr") == "torch" else True
