"""Good and bad parts, a small bundle with feature networks, and an empty store, for the commands of teach-in."""

from pathlib import Path

import pytest
from taught_parts import write_parts
from tiny_bundle_maker import make_tiny_bundle
from tiny_features import add_tiny_features

from zsad_agent.teaching import ProfileStore


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_tiny_features(make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "taught"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_parts(folder / "good", range(20))
    write_parts(folder / "bad", range(100, 104), blot=True)
    return folder


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path_factory.getbasetemp() / "teach-cache"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))


@pytest.fixture
def store(tmp_path: Path, folders: None) -> ProfileStore:
    return ProfileStore(tmp_path / "state" / "profiles")
