"""The wheel of this checkout, and environments to install it into, without downloading its dependencies again."""

import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import copy_checkout, run
from debian_packages import Packages, build_packages


@pytest.fixture(scope="session")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH or a .pth file: all installed packages except zsad-agent."""
    folder = tmp_path_factory.mktemp("dependencies")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "zsad" not in entry.name and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = copy_checkout(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source])
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return build_packages(tmp_path_factory.mktemp("deb"), sys.executable)


@pytest.fixture(scope="session")
def make_venv(dependencies: Path) -> Callable[[Path], Path]:
    """Makes an environment in a folder, with the dependencies and without zsad-agent, and returns its Python."""

    def make(folder: Path) -> Path:
        run([sys.executable, "-m", "venv", "--without-pip", folder])
        (site,) = folder.glob("lib/python3*/site-packages")
        (site / "dependencies.pth").write_text(f"{dependencies}\n")
        return folder / "bin/python"

    return make
