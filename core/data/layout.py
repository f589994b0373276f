"""What a row of the table of layouts says.

A template is a path below the data set's folder. `{category}` and `{defect}` stand for one folder each; in the path of
a mask also `{stem}` for the picture's name, `{dir}` for its folder and `{masks}` for the mask folder. A mask's path has
no suffix: any picture format will do. One that ends in `/` is a folder with the parts of one mask.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from zsad_core.data.listings import Row
from zsad_core.data.sample import GOOD, Split

Truth = Literal[
    "none",  # labels of whole pictures alone
    "needed",  # every anomalous picture has a mask
    "where_folder",  # the same, where there is a folder for the masks at all
    "blank_is_good",  # every picture has a mask, an all-zero one says that it is good
    "absent_is_good",  # only anomalous pictures have a mask
]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures in and below the folders of one template."""

    folder: str
    split: Split = "test"
    defect: str | None = None  # None: the folder at {defect}
    good: str = GOOD  # the folder at {defect} that holds pictures without a defect
    truth: Truth = "none"
    masks: tuple[str, ...] = ()  # tried in turn
    other: str = ""  # pattern of the stems of files that lie among the pictures and are none


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Pictures named in files."""

    files: str
    rows: Callable[[Path], Iterator[Row]]
    base: tuple[str, ...]  # where the named paths begin; the first folder that is there
    has_masks: bool


@dataclass(frozen=True, kw_only=True)
class Tree:
    """One form in which a data set is published."""

    marks: tuple[str, ...]  # all of these are in such a tree; with a category, the first tells the categories
    pictures: tuple[Pictures, ...] = ()
    listing: Listing | None = None
    product: str | None = None  # what the pictures show; None: {category}, or the data set's name without one
    mask_folder: str | None = None  # what {masks} is unless the caller names another
    general: bool = False  # fits many trees: taken only where no other does
    found_by_content: bool = True  # else by its layout's name alone

    def of_one_category(self, product: str) -> "Tree | None":
        """The tree below a single category's folder; None without categories."""
        if "{category}" not in self.marks[0]:
            return None

        def below(templates: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(template.replace("{category}/", "") for template in templates)

        pictures = tuple(replace(one, folder=below((one.folder,))[0], masks=below(one.masks)) for one in self.pictures)
        return replace(self, marks=below(self.marks), pictures=pictures, product=self.product or product)
