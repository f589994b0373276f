"""The command line of `zsad-prepare`: from the authors' download of a data set to the MVTec layout."""

import argparse
import hashlib
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsad_core.command import guarded
from zsad_core.config import read_yaml
from zsad_core.errors import DatasetError, some

if TYPE_CHECKING:
    from zsad_training.preparation import Chosen, Recipe

_REFERENCES = Path(__file__).with_name("preparation") / "references.yaml"
_DIGITS = 16  # of a digest in the references


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a prepared set consists of."""

    counts: Mapping[str, int]  # folder -> number of files in and below it
    digests: Mapping[str, str]  # folder -> digest of its files; empty for a set whose content was not available
    chosen: "Chosen"


def recipes() -> "dict[str, Recipe]":
    """Name -> recipe of each set that can be prepared."""
    from zsad_training import preparation as sets

    known = (
        sets.DEEPPCB, sets.COOKIE, sets.MAGNETIC_TILE, sets.CC0_TEXTURES, sets.KSDD, sets.CRACKFOREST,
        sets.MVTEC_AD_MINI, sets.MVTEC_AD, sets.VISA, sets.ALIEN,
    )  # fmt: skip
    return {recipe.name: recipe for recipe in known}


def read_references(path: Path = _REFERENCES) -> dict[str, Reference]:
    """Name of a set -> its reference. A folder's value is the number of its files and, where known, their digest."""
    found = {}
    for name, entry in read_yaml(path)[0].items():
        folders = {folder: str(value).split() for folder, value in entry["folders"].items()}
        found[name] = Reference(
            counts={folder: int(words[0]) for folder, words in folders.items()},
            digests={folder: words[1] for folder, words in folders.items() if len(words) > 1},
            chosen={folder: frozenset(names.split()) for folder, names in entry.get("chosen", {}).items()},
        )
    return found


def digest(sums: Mapping[str, str]) -> str:
    """The digest of files: path -> SHA-256 in hex."""
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(sums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:_DIGITS]


def differing(sums: Mapping[str, str], reference: Reference) -> list[str]:
    """The folders whose files differ from those of the reference, by its digests.

    Raises:
        DatasetError: a folder has another number of files; one line for each.
    """
    inside = {
        folder: {path: sha256 for path, sha256 in sums.items() if path.startswith(f"{folder}/")}
        for folder in reference.counts
    }
    faults = [
        f"{folder}: {len(inside[folder])} files, expected {count}: the download is incomplete, or another version"
        for folder, count in reference.counts.items()
        if len(inside[folder]) != count
    ]
    if not faults and (listed := sum(reference.counts.values())) != len(sums):
        faults = [f"{len(sums)} files, of which the reference lists {listed}: the download is another version"]
    if faults:
        raise DatasetError("\n".join(faults))
    return [folder for folder, expected in reference.digests.items() if digest(inside[folder]) != expected]


def prepare(recipe: "Recipe", reference: Reference, source: Path, out: Path) -> str:
    """Prepares a set in `out`/<its name>; tells how it compares with the reference.

    Raises:
        DatasetError: `source` is not the download, a file in it is missing or broken, or the set exists already.
        OSError: a file cannot be written.
    """
    from zsad_training.preparation import whole_set

    recipe.check(source)
    folder = out / recipe.name
    with whole_set(folder) as output:
        recipe.prepare(source, reference.chosen, output)
        others = differing(output.sums, reference)
    told = f"{folder}: {len(output.sums)} files in {len(reference.counts)} folders"
    if not reference.digests:
        return f"{told}, as many as expected; the reference has no hashes of this set"
    if not others:
        return f"{told}, byte for byte those of the reference"
    return (
        f"{told}, as many as expected, but {len(others)} folders have other content than the reference: "
        f"{some(others)}. Another version of OpenCV writes other JPEG files, or the download is another version."
    )


def parser() -> argparse.ArgumentParser:
    """The flags of `zsad-prepare`."""
    known = recipes().values()
    result = argparse.ArgumentParser(
        prog="zsad-prepare",
        description="Turns the download of a data set into the MVTec layout that training and evaluation read. The "
        "numbers of files are checked; files are compared with the reference by hash. See docs/data.md.",
        epilog="NAME, licence and download:\n"
        + "\n".join(f"  {recipe.name:14} {recipe.licence}; {recipe.download}" for recipe in known),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("name", choices=[recipe.name for recipe in known], metavar="NAME", help="data set, see below")
    result.add_argument("source", type=Path, metavar="SOURCE", help="folder of the unpacked download")
    result.add_argument("out", type=Path, metavar="OUT", help="folder of all data sets; the set is written to OUT/NAME")
    return result


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 bad usage."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    work = recipes()[args.name], read_references()[args.name], args.source, args.out
    return guarded("zsad-prepare", lambda: print(prepare(*work)))


if __name__ == "__main__":
    sys.exit(main())
