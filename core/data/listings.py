"""Data sets that list their images, labels and splits in a file: VisA, Real-IAD, HeadCT."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from zsad_core.data.sample import GOOD, Split
from zsad_core.errors import DatasetError


@dataclass(frozen=True, kw_only=True)
class Row:
    product: str | None  # None: the product of the layout
    split: Split
    defect: str
    image: str  # relative path
    mask: str | None


def visa_rows(path: Path) -> Iterator[Row]:
    """Rows of a CSV with the columns object, split, label (normal or anomaly), image, mask.

    Raises:
        DatasetError: a column is missing or a value is unknown.
    """
    for line, values in _csv_rows(path, ("object", "split", "label", "image", "mask")):
        label = {"normal": GOOD, "anomaly": "anomaly"}.get(values["label"])
        if label is None:
            raise DatasetError(f"{path}:{line}: label is {values['label']!r}, expected normal or anomaly")
        yield Row(
            product=values["object"],
            split=_split(values["split"], f"{path}:{line}"),
            defect=label,
            image=values["image"],
            mask=values["mask"] or None if label != GOOD else None,
        )


def head_ct_rows(path: Path) -> Iterator[Row]:
    """Rows of a CSV with the columns id and hemorrhage (0 or 1). Image `id` is <three digits>.png; all are test images.

    Raises:
        DatasetError: a column is missing or a value is unknown.
    """
    for line, values in _csv_rows(path, ("id", "hemorrhage")):
        if not values["id"].isdigit() or values["hemorrhage"] not in ("0", "1"):
            raise DatasetError(f"{path}:{line}: expected a number and 0 or 1, got {', '.join(values.values())}")
        yield Row(
            product=None,
            split="test",
            defect=GOOD if values["hemorrhage"] == "0" else "hemorrhage",
            image=f"{int(values['id']):03}.png",
            mask=None,
        )


def real_iad_rows(path: Path) -> Iterator[Row]:
    """Rows of a category's JSON: `meta` (prefix, normal_class), and the lists `train` and `test` of images.

    A view of a defective part that does not show the defect has no mask. It counts as good, as in the authors' reader.

    Raises:
        DatasetError: the file is not such a JSON file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        prefix, normal = content["meta"]["prefix"], content["meta"]["normal_class"]
        for split in ("train", "test"):
            for entry in content[split]:
                good = entry["mask_path"] is None or entry["anomaly_class"] == normal
                yield Row(
                    product=entry["category"],
                    split=_split(split, str(path)),
                    defect=GOOD if good else entry["anomaly_class"],
                    image=str(PurePosixPath(prefix, entry["image_path"])),
                    mask=None if good else str(PurePosixPath(prefix, entry["mask_path"])),
                )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not a Real-IAD listing: {type(error).__name__}: {error}") from error


def _csv_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            if missing := [name for name in columns if name not in header]:
                raise DatasetError(f"{path}:1: no column {', '.join(missing)}; found {', '.join(header) or 'nothing'}")
            for values in reader:
                if values:
                    if len(values) != len(header):
                        raise DatasetError(f"{path}:{reader.line_num}: {len(values)} values for {len(header)} columns")
                    row = dict(zip(header, (value.strip() for value in values), strict=True))
                    yield reader.line_num, {name: row[name] for name in columns}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error


def _split(name: str, where: str) -> Split:
    if name == "train":
        return "train"
    if name == "test":
        return "test"
    raise DatasetError(f"{where}: split is {name!r}, expected train or test")
