"""Small trees of data sets in the form that their authors publish."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from zsad_core.data import LayoutName

HW = (16, 24)
PICTURE = np.full((*HW, 3), 120, np.uint8)
BLANK = np.zeros(HW, np.uint8)
SPOT = BLANK.copy()
SPOT[:8, :8] = 255
SPOT_2 = BLANK.copy()
SPOT_2[8:, 16:] = 255
AREA = 64  # pixels of a spot
IMAGE_LEVEL = None  # no pixel truth

Expected = tuple[str, str, str, str, int | None]  # split, product, defect, image, pixels of the mask


@dataclass(frozen=True, kw_only=True)
class Case:
    layout: LayoutName
    samples: list[Expected]
    files: dict[str, np.ndarray | str] = field(default_factory=dict)  # all but the images of the samples
    by_content: bool = True  # the layout `auto` finds it
    form: str = ""

    @property
    def tree(self) -> dict[str, np.ndarray | str]:
        """All files of the data set, with an image for each sample."""
        return {image: PICTURE for _, _, _, image, _ in self.samples} | self.files


def make(root: Path, files: dict[str, np.ndarray | str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            assert cv2.imwrite(str(path), content)
    return root


def mvtec_tree(category: str, *, defect: str = "hole", good: str = "good", mask: str = "000_mask.png") -> dict:
    return {
        f"{category}/train/{good}/000.png": PICTURE,
        f"{category}/test/{good}/000.png": PICTURE,
        f"{category}/test/{defect}/000.png": PICTURE,
        f"{category}/ground_truth/{defect}/{mask}": SPOT,
    }


def mvtec_samples(category: str, *, defect: str = "hole", good: str = "good") -> list[Expected]:
    return [
        ("train", category, "good", f"{category}/train/{good}/000.png", 0),
        ("test", category, "good", f"{category}/test/{good}/000.png", 0),
        ("test", category, defect, f"{category}/test/{defect}/000.png", AREA),
    ]


def mvtec_case(layout: LayoutName, category: str, *, form: str = "", **names: str) -> Case:
    of_samples = {key: value for key, value in names.items() if key != "mask"}
    return Case(
        layout=layout,
        form=form,
        files=mvtec_tree(category, **names),
        samples=mvtec_samples(category, **of_samples),
    )


LOCO_FILES: dict[str, np.ndarray | str] = {
    "pushpins/train/good/000.png": PICTURE,
    "pushpins/validation/good/000.png": PICTURE,
    "pushpins/test/good/000.png": PICTURE,
    "pushpins/test/logical_anomalies/000.png": PICTURE,
    "pushpins/test/structural_anomalies/000.png": PICTURE,
    "pushpins/ground_truth/logical_anomalies/000/000.png": SPOT,
    "pushpins/ground_truth/logical_anomalies/000/001.png": SPOT_2,
    "pushpins/ground_truth/structural_anomalies/000/000.png": SPOT,
    "pushpins/defects_config.json": "[]",
}
