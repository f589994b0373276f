"""The types of the table of layouts.

A template is a path below the data set's folder. `{category}` and `{defect}` stand for one folder each. In the path of
a mask, `{stem}` stands for the image's name, `{dir}` for its folder and `{masks}` for the mask folder. A mask's path
has no suffix: every image format is accepted. A path that ends in `/` is a folder with the parts of one mask.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from zsad_core.data.listings import Row
from zsad_core.data.sample import GOOD, Split

Truth = Literal[
    "none",  # only labels of whole images
    "needed",  # every anomalous image has a mask
    "where_folder",  # as "needed" if a mask folder exists, else "none"
    "blank_is_good",  # every image has a mask; an all-zero mask means good
    "absent_is_good",  # only anomalous images have a mask
]


def is_mask(inside: Path) -> bool:
    """Whether a file is a mask, by its path inside a data set's folder."""
    folders = [part.lower() for part in inside.parts[:-1]]  # VisA's is Masks
    return any(folder == "masks" or folder.startswith(("ground_truth", "ground truth")) for folder in folders)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The images in and below the folders of one template."""

    folder: str
    split: Split = "test"
    defect: str | None = None  # None: the name of the folder at {defect}
    good: str = GOOD  # the folder at {defect} with images without a defect
    truth: Truth = "none"
    masks: tuple[str, ...] = ()  # templates, tried in this order
    other: str = ""  # regular expression for the stems of files in `folder` to skip, such as masks


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Images that are listed in files."""

    files: str
    rows: Callable[[Path], Iterator[Row]]
    base: tuple[str, ...]  # the listed paths are relative to the first of these folders that exists
    has_masks: bool


@dataclass(frozen=True, kw_only=True)
class Tree:
    """One published form of a data set."""

    marks: tuple[str, ...]  # such a tree has all of these; the first one finds the categories
    pictures: tuple[Pictures, ...] = ()
    listing: Listing | None = None
    product: str | None = None  # product in the images; None: {category}, or the data set's name without categories
    mask_folder: str | None = None  # default for {masks}
    general: bool = False  # fits many trees, so it is used only if no other layout fits
    found_by_content: bool = True  # False: only found by its layout's name

    def of_one_category(self, product: str) -> "Tree | None":
        """The same tree with one category's folder as its root; None without categories."""
        if "{category}" not in self.marks[0]:
            return None

        def below(templates: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(template.replace("{category}/", "") for template in templates)

        pictures = tuple(replace(one, folder=below((one.folder,))[0], masks=below(one.masks)) for one in self.pictures)
        return replace(self, marks=below(self.marks), pictures=pictures, product=self.product or product)
