"""The checkout's files in git, and its commands."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDER_OF: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]  # import name -> folder


def run(command: list[str | Path], *, exit_code: int = 0, cwd: str | Path = ROOT, **environment: str | Path) -> str:
    """Stdout and stderr of a command, which must end with `exit_code`."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == exit_code, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def files_in_git(*, untracked: bool = False) -> list[Path]:
    """Paths relative to the root; with `untracked` also those that the next commit could add."""
    listed = run(["git", "ls-files", "-z", "--cached", *(["--others", "--exclude-standard"] if untracked else [])])
    return [Path(name) for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file()]


def copy_checkout(to: Path) -> Path:
    """Copies the checkout without environments and build outputs, which a build would include."""
    for file in files_in_git(untracked=True):
        (to / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, to / file)
    return to
