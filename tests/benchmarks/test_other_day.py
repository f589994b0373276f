import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")  # of zsad_training

from zsad_core.data import scan_dataset

SCRIPT = Path(__file__).parents[2] / "benchmarks/other_day.py"


def copied(dataset: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, dataset, "--out", out], capture_output=True, text=True)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "parts"
    for folder in ("train/good", "test/good", "test/crack", "ground_truth/crack"):
        (root / "bolt" / folder).mkdir(parents=True)
    for index in range(12):
        image = np.full((30, 50, 3), 100, np.uint8)
        cv2.imwrite(str(root / f"bolt/test/good/{index}.png"), image)
        image[4:10, 30:45] = 250
        mask = np.zeros((30, 50), np.uint8)
        mask[4:10, 30:45] = 255
        cv2.imwrite(str(root / f"bolt/test/crack/{index}.png"), image)
        cv2.imwrite(str(root / f"bolt/ground_truth/crack/{index}_mask.png"), mask)
    cv2.imwrite(str(root / "bolt/train/good/0.png"), image)
    return root


def test_masks_are_transformed_like_their_images(dataset: Path, tmp_path: Path) -> None:
    assert copied(dataset, tmp_path / "day").returncode == 0
    samples, faults = scan_dataset(tmp_path / "day/parts")
    assert len(samples) == 24 and not faults
    shapes, levels, defects = set(), set(), 0
    for image, mask in (sample.load() for sample in samples):
        shapes.add(mask.shape)
        levels.add(round(float(image[mask == 0].mean())))
        if mask.any():
            assert image[mask > 0].mean() > image[mask == 0].mean() + 20  # the mask marks the defect
            defects += 1
    assert shapes == {(30, 50), (50, 30)}
    assert len(levels) > 12
    assert defects == sum(sample.is_anomalous for sample in samples) > 0


def test_images_of_one_name_in_several_folders_are_all_copied(tmp_path: Path) -> None:
    for item in ("kos01", "kos02"):  # KolektorSDD as its authors publish it
        folder = tmp_path / "ksdd" / item
        folder.mkdir(parents=True)
        for part, label in (("Part0", 0), ("Part1", 255)):
            cv2.imwrite(str(folder / f"{part}.jpg"), np.full((50, 30, 3), 100, np.uint8))
            cv2.imwrite(str(folder / f"{part}_label.bmp"), np.full((50, 30), label, np.uint8))
    assert copied(tmp_path / "ksdd", tmp_path / "day").returncode == 0
    assert len(scan_dataset(tmp_path / "day/ksdd")[0]) == 4


def test_a_name_always_gives_the_same_changes(dataset: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        copied(dataset, tmp_path / out)
    for path in (tmp_path / "a").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_folder_without_a_data_set_is_a_one_line_error(tmp_path: Path) -> None:
    run = copied(tmp_path / "absent", tmp_path / "out")
    assert run.returncode == 1
    assert run.stderr == f"{tmp_path / 'absent'}: no such folder\n"
