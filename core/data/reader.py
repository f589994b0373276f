"""Reads any data set of the table of layouts: gives samples, and the faults of the folder tree."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from zsad_core.data.layout import Listing, Pictures, Tree, is_mask
from zsad_core.data.sample import GOOD, Sample, Split
from zsad_core.data.table import LAYOUTS, LayoutName
from zsad_core.errors import DatasetError, ImageError
from zsad_core.picture import find_images, is_picture, read_mask

logger = logging.getLogger(__name__)

MAX_FAULTS_SHOWN = 20
_VARIABLE = re.compile(r"\{(\w+)\}")
Values = dict[str, str]  # a template's variables
_Found = tuple[Tree, str, Path]


def scan_dataset(
    root: Path, *, layout: LayoutName = "auto", mask_folder: str | None = None
) -> tuple[list[Sample], list[str]]:
    """All samples below `root`, sorted, and one line per fault of the tree: a missing mask, a folder without images.

    Args:
        root: the data set's folder, or one category of a data set with categories.
        layout: a name of `LAYOUTS`; auto finds it from the content if only one fits.
        mask_folder: replaces the layout's mask folder, e.g. for a second annotation.

    Raises:
        DatasetError: no such folder, no known layout in it, or several layouts fit.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    if root.name in ("", ".."):  # the folder's name is the name of the data set
        root = root.resolve()
    tree, dataset, top = _find_tree(root, layout)
    if mask_folder is not None and tree.mask_folder is None:
        raise DatasetError(f"{root}: mask folder {mask_folder!r} is given, but this layout has no mask folder")
    reading = _Reading(root, tree, dataset, top, mask_folder or tree.mask_folder or "")
    return sorted(reading.samples()), reading.faults


def raise_faults(faults: list[str]) -> None:
    """Raises a DatasetError if there are faults; its text has the first ones and the number of the others."""
    if faults:
        more = len(faults) - MAX_FAULTS_SHOWN
        raise DatasetError("\n".join(faults[:MAX_FAULTS_SHOWN] + ([f"… and {more} more"] if more > 0 else [])))


def _find_tree(root: Path, layout: LayoutName) -> _Found:
    """The tree in `root`, the data set's name, and its folder."""
    if layout != "auto":
        for tree in LAYOUTS[layout]:
            if found := _fitting(root, tree):
                return found
        expected = _VARIABLE.sub(r"<\1>", ", or ".join(" and ".join(tree.marks) for tree in LAYOUTS[layout]))
        raise DatasetError(f"{root}: no {layout} layout here: expected in it {expected}")
    found_by: dict[_Found, list[str]] = {}
    for general in (False, True):
        for name, trees in LAYOUTS.items():
            for tree in trees:
                if tree.general == general and tree.found_by_content and (found := _fitting(root, tree)):
                    found_by.setdefault(found, []).append(name)
        if len(found_by) == 1:
            return next(iter(found_by))
        if found_by:
            names = ", ".join(sorted({name for names in found_by.values() for name in names}))
            raise DatasetError(f"{root}: several layouts fit: name one of {names} (--layout, layout:)")
    known = ", ".join(get_args(LayoutName)[1:])
    raise DatasetError(
        f"{root}: no known layout here, such as {root}/<category>/test/<defect or good>/*.png. If it is one of these, "
        f"name it (--layout, layout:) to see what is missing: {known}"
    )


def _fitting(root: Path, tree: Tree) -> _Found | None:
    """The tree in `root`, the data set's name, and its folder, which is the parent if `root` is one category.

    None if `root` holds no such tree.
    """
    single = tree.of_one_category(root.name)
    for form, top in ((single, root.parent), (tree, root)):
        if form is not None and all(any(root.glob(_VARIABLE.sub("*", mark))) for mark in form.marks):
            return form, top.name, top
    return None


@dataclass
class _Reading:
    root: Path
    tree: Tree
    dataset: str
    top: Path  # the data set's folder; `root` may be one of its categories
    mask_folder: str
    faults: list[str] = field(init=False, default_factory=list)
    _stems: dict[Path, dict[str, Path]] = field(init=False, default_factory=dict)  # folder -> stem -> mask file

    def samples(self) -> list[Sample]:
        categories = {values["category"] for _, values in self._folders(self.tree.marks[0]) if "category" in values}
        found = [sample for pictures in self.tree.pictures for sample in self._read(pictures, categories)]
        if self.tree.listing:
            found += self._listed(self.tree.listing)
        with_test = {sample.product for sample in found if sample.split == "test"}
        self.faults += [f"{self.root / name}: no test pictures" for name in sorted(categories - with_test)]
        if not found and not self.faults:
            self.faults.append(f"{self.root}: no pictures")
        return found

    def _folders(self, template: str) -> Iterator[tuple[Path, Values]]:
        """The folders of a template, with the values of its variables; hidden folders are skipped."""
        parts = _VARIABLE.split(template.rstrip("/"))  # text and names in turn
        named = (re.escape(part) if index % 2 == 0 else f"(?P<{part}>[^/.][^/]*)" for index, part in enumerate(parts))
        pattern = re.compile("".join(named))
        for path in sorted(self.root.glob(_VARIABLE.sub("*", template.rstrip("/")))):
            match = pattern.fullmatch(path.relative_to(self.root).as_posix())
            if match and path.is_dir():
                yield path, match.groupdict()

    def _read(self, pictures: Pictures, categories: set[str]) -> Iterator[Sample]:
        for folder, values in self._folders(pictures.folder):
            if "category" in values and values["category"] not in categories:
                continue
            if values.get("defect") == self.mask_folder:
                continue
            if is_mask(Path(values.get("defect", ""), "x")):
                logger.warning("%s: is skipped, as masks. To use them, name it (--mask-folder, mask_folder:)", folder)
                continue
            defect = pictures.defect or values["defect"]
            defect = GOOD if defect == pictures.good else defect
            truth = pictures.truth
            if truth == "where_folder" and defect != GOOD:
                truth = "needed" if self._has_mask_folder(pictures, folder, values) else "none"
            images = [image for image in find_images(folder) if not re.fullmatch(pictures.other, image.stem)]
            if not images:
                self._note_empty(folder, pictures.split)
            for image in images:
                yield self._sample(image, values, pictures, truth, defect)

    def _note_empty(self, folder: Path, split: Split) -> None:
        if split == "test":
            self.faults.append(f"{folder}: no pictures. Remove the folder if there are none")
        else:
            logger.warning("%s: no pictures", folder)

    def _has_mask_folder(self, pictures: Pictures, folder: Path, values: Values) -> bool:
        folders = {self._mask_path(template, values, folder / "x").parent for template in pictures.masks}
        if any(path.is_dir() for path in folders):
            return True
        logger.warning(
            "%s: no masks in %s: only image metrics are computed", folder, " or ".join(map(str, sorted(folders)))
        )
        return False

    def _sample(self, image: Path, values: Values, pictures: Pictures, truth: str, defect: str) -> Sample:
        mask = None
        if defect != GOOD and truth != "none":
            paths = [self._mask_path(template, values, image) for template in pictures.masks]
            mask = next((found for path in paths if (found := self._find_mask(path))), None)
            if mask is None and truth == "absent_is_good":
                defect = GOOD
            elif mask is None:
                expected = f"pictures in {paths[0]}" if pictures.masks[0].endswith("/") else f"{paths[0]}.png"
                self.faults.append(f"{image}: no mask: expected {expected}")
            elif truth == "blank_is_good" and self._is_blank(mask):
                defect, mask = GOOD, None
        return Sample(
            dataset=self.dataset,
            product=self.tree.product or values.get("category", self.dataset),
            split=pictures.split,
            defect=defect,
            image=image,
            place=image.relative_to(self.top).as_posix(),
            mask=mask,
        )

    def _mask_path(self, template: str, values: Values, image: Path) -> Path:
        """The path of the image's mask, without suffix."""
        folder = image.parent.relative_to(self.root).as_posix()
        return self.root / template.format(**values, dir=folder, stem=image.stem, masks=self.mask_folder)

    def _find_mask(self, path: Path) -> Path | None:
        """The image file with this path and any suffix, or the folder of mask parts; None if there is none."""
        if path.is_dir():
            return path if find_images(path) else None
        folder = path.parent
        if folder not in self._stems:
            files = sorted(folder.iterdir(), key=lambda file: file.suffix == ".png") if folder.is_dir() else []
            self._stems[folder] = {file.stem: file for file in files if is_picture(file.name, b"") and file.is_file()}
        return self._stems[folder].get(path.name)

    def _is_blank(self, mask: Path) -> bool:
        try:
            return not read_mask(mask).any()
        except ImageError as error:
            self.faults.append(str(error))
            return False

    def _listed(self, listing: Listing) -> Iterator[Sample]:
        base = next((self.root / name for name in listing.base if (self.root / name).is_dir()), None)
        if base is None:
            self.faults.append(f"{self.root}: no pictures: expected one of the folders {', '.join(listing.base)}")
            return
        for file in sorted(self.root.glob(listing.files)):
            for row in listing.rows(file):
                image, mask = base / row.image, base / row.mask if row.mask else None
                if not image.is_file():
                    self.faults.append(f"{image}: no such picture, but {file} lists it")
                    continue
                if mask is not None and not mask.is_file():
                    self.faults.append(f"{image}: no mask: expected {mask}")
                    mask = None
                elif mask is None and row.defect != GOOD and listing.has_masks:
                    self.faults.append(f"{image}: no mask is listed in {file}")
                yield Sample(
                    dataset=self.dataset,
                    product=row.product or self.tree.product or self.dataset,
                    split=row.split,
                    defect=row.defect,
                    image=image,
                    place=image.relative_to(self.top).as_posix(),
                    mask=mask,
                )
