"""Fixtures for every test."""

from pathlib import Path

import pytest
from tiny_bundle_maker import make_tiny_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small real bundle; see `tiny_bundle_maker`."""
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "darkness")
