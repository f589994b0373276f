"""The committed files: their size, no paths of a developer's machine, shell scripts without known faults."""

import re
import shutil

import pytest
from checkout import ROOT, files_in_git, run

MAX_TRACKED_BYTES = 30_000_000
SOMEBODYS_PATH = re.compile(rb"(?<![\w./-])/(?:home|root|Users)/[A-Za-z0-9_.-]+")


def test_tracked_files_stay_small() -> None:
    sizes = {file: (ROOT / file).stat().st_size for file in files_in_git()}
    largest = sorted(sizes, key=sizes.__getitem__)[-5:]
    assert sum(sizes.values()) <= MAX_TRACKED_BYTES, f"largest: {', '.join(map(str, largest))}"


def test_no_tracked_file_names_a_home_folder() -> None:
    found = {
        str(file): match[0] for file in files_in_git() if (match := SOMEBODYS_PATH.search((ROOT / file).read_bytes()))
    }
    assert not found


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs the package shellcheck")
def test_shell_scripts_pass_shellcheck() -> None:
    files = files_in_git(untracked=True)
    scripts = [file for file in files if file.suffix in (".sh", ".bash") or file.parent.name == "deb"] + [".ci/run"]
    assert len(scripts) > 1
    run(["shellcheck", "--shell=bash", *(file for file in scripts if str(file).endswith(".bash"))])
    run(["shellcheck", *(file for file in scripts if not str(file).endswith(".bash"))])
