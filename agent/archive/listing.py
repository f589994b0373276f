"""The pictures of folders, patterns and lists, one after the other: an archive is never listed as a whole."""

import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from zsad_core.errors import ConfigError
from zsad_core.picture import sort_out

LOOKED_AT = 1000  # names of a pattern that are sorted out at once
LIST = ".txt"


def list_pictures(paths: Iterable[str]) -> Iterator[Path]:
    """The absolute paths of the pictures that the command line names, folder by folder.

    A folder stands for its pictures with those of its subfolders, a file `.txt` for the paths in its lines, and a path
    with * ? or [ that is no file for what matches it. Hidden folders are left out, and links to folders not followed.
    A named picture that does not exist, and a folder that cannot be listed, are given too: reading them tells why.

    Raises:
        ConfigError: a list cannot be read.
    """
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a name is too long or a folder closed
            yield from _in_folder(os.path.abspath(path))  # noqa: PTH100 - links stay as they are
        elif path.endswith(LIST):
            yield from _in_list(path)
        elif glob.has_magic(path) and not os.path.lexists(path):
            names = _matching(path)
            while some := list(itertools.islice(names, LOOKED_AT)):
                yield from sort_out(Path(os.path.abspath(name)) for name in some).pictures  # noqa: PTH100
        else:
            yield Path(os.path.abspath(path))  # noqa: PTH100


def _in_folder(folder: str) -> Iterator[Path]:
    unlisted: list[Path] = []
    walk = os.walk(folder, onerror=lambda error: unlisted.append(Path(error.filename)))
    for parent, folders, names in walk:
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from sort_out(Path(parent, name) for name in names).pictures
        yield from unlisted
        unlisted.clear()
    yield from unlisted


def _matching(pattern: str) -> Iterator[str]:
    """What matches. `**` follows no links to folders, unlike in `glob`: two links in a circle have no end."""
    before, recursive, after = pattern.partition("**/")
    if pattern.endswith("/**"):
        yield from _matching(f"{pattern}/*")
    elif recursive and (not before or before.endswith("/")):
        for base in glob.iglob(before) if before else ["."]:  # noqa: PTH207 - Path.glob takes no absolute pattern
            for parent, folders, _ in os.walk(base):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                yield from _matching(os.path.join(glob.escape(parent), after))  # noqa: PTH118
    else:
        yield from glob.iglob(pattern)  # noqa: PTH207


def _in_list(path: str) -> Iterator[Path]:
    try:
        with Path(path).open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for line in file:
                if name := line.rstrip("\r\n"):
                    yield Path(os.path.abspath(name))  # noqa: PTH100
    except OSError as error:
        raise ConfigError(f"{path}: this list cannot be read: {error.strerror}") from error
