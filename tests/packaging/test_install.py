"""Wheel and editable install, each in its own environment."""

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from checkout import FOLDER_OF, copy_checkout, files_in_git, run

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def test_the_wheel_has_every_module_schema_and_bundle(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    for package, folder in FOLDER_OF.items():
        wanted = {
            f"{package}/{file.relative_to(folder).as_posix()}"
            for file in files_in_git(untracked=True)
            if file.parts[0] == folder
        }
        assert wanted <= packed
        assert wanted
    assert {"zsad_agent/messages/result.schema.json", "zsad_core/bundle/manifest.schema.json"} <= packed
    assert {"zsad_agent/web/static/index.html", "zsad_agent/web/static/messages.de.json"} <= packed
    for bundle in ("zsad-small", "zsad-tiny"):
        assert f"zsad_agent/bundles/{bundle}/manifest.json" in packed
    assert not {name for name in packed if not name.startswith((*FOLDER_OF, "zsad_agent-"))}


def test_a_wheel_install_has_a_working_command(wheel: Path, make_venv: Callable[[Path], Path], tmp_path: Path) -> None:
    python = make_venv(tmp_path / "venv")
    run([*PIP, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel])
    assert_command_runs_from(python, tmp_path / "venv")


def test_an_editable_install_has_a_working_command(make_venv: Callable[[Path], Path], tmp_path: Path) -> None:
    source = copy_checkout(tmp_path / "source")
    python = make_venv(tmp_path / "venv")
    run([*PIP, "--python", python, "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-e", source])
    assert_command_runs_from(python, source)


def assert_command_runs_from(python: Path, folder: Path) -> None:
    # Not in the checkout's root, where the folder `agent` could be imported by mistake.
    where = run([python, "-c", "import zsad_agent, zsad_core; print(zsad_agent.__file__, zsad_core.__file__)"], cwd="/")
    assert all(path.startswith(str(folder)) for path in where.split()), where
    assert "--camera" in run([python.parent / "zsad-agent", "--help"], cwd="/")
