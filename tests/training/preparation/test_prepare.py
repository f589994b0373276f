"""`zsad-prepare` on small trees in the form of the authors' downloads."""

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from download_trees import DOWNLOADS, MASK, Download, deeppcb, ksdd

from zsad_core.data import scan_dataset
from zsad_core.errors import DatasetError
from zsad_training.prepare import Reference, digest, main, prepare, read_references, recipes


def reference(download: Download, **digests: str) -> Reference:
    counts = {folder: len(stems) for folder, stems in download.makes.items()}
    return Reference(counts=counts, digests=digests, chosen=download.chosen)


def prepared(download: Download, tmp_path: Path) -> Path:
    source = download.write(tmp_path / "source")
    assert "no hashes" in prepare(recipes()[download.name], reference(download), source, tmp_path / "sets")
    return tmp_path / "sets" / download.name


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("download", DOWNLOADS, ids=lambda download: download.name)
def test_the_download_becomes_the_mvtec_layout(download: Download, tmp_path: Path) -> None:
    folder = prepared(download, tmp_path)
    made: dict[str, set[str]] = {}
    for path in folder.rglob("*.*"):
        made.setdefault(path.parent.relative_to(folder).as_posix(), set()).add(path.stem)
    assert made == download.makes
    if download.name != "cc0_textures":
        samples, faults = scan_dataset(folder, layout="mvtec_ad")
        assert faults == []
        for sample in samples:
            image, mask = sample.load()
            assert max(image.shape) <= 640 or download.name == "mvtec_ad"
            assert mask.any() == (sample.mask is not None)
        assert {int(value) for path in folder.rglob("*_mask.png") for value in np.unique(read(path))} <= {0, 255}
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=False).returncode == 0


def test_xor_mask_holds_what_differs_from_the_template_inside_a_box(tmp_path: Path) -> None:
    folder = prepared(deeppcb(), tmp_path)
    expected = np.zeros((64, 64), np.uint8)
    expected[10:16, 40:47] = 255  # the spot of [10:14, 40:45]; neither the speck nor what is outside the box
    assert (read(folder / "pcb/ground_truth_xor/mixed/00041002_test_mask.png") == expected).all()
    box = np.zeros((64, 64), np.uint8)
    box[8:17, 38:48] = 255
    assert (read(folder / "pcb/ground_truth/mixed/00041002_test_mask.png") == box).all()


def test_tiles_are_cut_at_native_resolution(tmp_path: Path) -> None:
    folder = prepared(ksdd(), tmp_path)
    mask = read(folder / "commutator/ground_truth/crack/kos21_Part1_2_mask.png")
    assert mask.shape == (500, 500)
    assert np.argwhere(mask)[[0, -1]].tolist() == [[220, 100], [229, 119]]  # rows 820 to 829 of the image


def test_masks_keep_their_pixels(tmp_path: Path) -> None:
    by_name = {
        download.name: prepared(download, tmp_path / download.name)
        for download in DOWNLOADS
        if "mvtec" not in download.name
    }
    assert (read(by_name["magnetic_tile"] / "tile/ground_truth/break/exp1_num_1_mask.png") == MASK).all()
    assert (read(by_name["visa"] / "candle/ground_truth/anomaly/000_mask.png") == MASK).all()
    crack = read(by_name["crackforest"] / "road/ground_truth/crack/001_3_mask.png") > 0
    assert crack.shape == (160, 240)
    assert [crack[row].sum() for row in (89, 90, 91, 92)] == [0, 140, 40, 0]
    cracked = read(by_name["aws_cookie"] / "cookie/ground_truth/cracked/anomaly-1_mask.png") > 0
    assert cracked.shape == (640, 480)
    assert np.argwhere(cracked).min(0).tolist() == [50, 50]
    assert cracked.sum() == 50 * 100  # a quarter of the label's pixels, and none of the other label


@pytest.mark.parametrize("name", sorted(recipes()))
def test_another_folder_is_refused_with_what_is_missing_and_the_download(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, source = recipes()[name], tmp_path / "source"
    source.mkdir()
    assert main([name, str(source), str(tmp_path / "sets")]) == 1
    told = capsys.readouterr().err
    assert all(f"{source}: no {pattern}" in told for pattern in recipe.tree)
    assert recipe.download in told
    assert not (tmp_path / "sets").exists()


@pytest.mark.parametrize(("archive", "hint"), [(True, "Unpack it first"), (False, "no such folder")])
def test_an_archive_or_no_folder_is_refused(
    archive: bool, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "KolektorSDD.zip"
    if archive:
        source.write_bytes(b"PK")
    assert main(["ksdd", str(source), str(tmp_path)]) == 1
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("kos21/Part0_label.bmp missing", "kos21/Part0_label.bmp: missing"),
        ("kos21/Part0.jpg cut", "kos21/Part0.jpg"),
        ("kos21/Part0.jpg empty", "kos21/Part0.jpg"),
        ("kos21/Part0.jpg small", "Part0_label.bmp: 500x1100, but its image is 64x64"),
        ("kos01 missing", "commutator/train/good: 0 files, expected 1: the download is incomplete"),
    ],
)
def test_a_broken_download_is_named_and_leaves_nothing(fault: str, message: str, tmp_path: Path) -> None:
    source, (place, kind) = ksdd().write(tmp_path / "source"), fault.split()
    path = source / place
    if kind == "missing":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif kind == "small":
        assert cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
    else:
        path.write_bytes(path.read_bytes()[:1000] if kind == "cut" else b"")
    with pytest.raises(DatasetError, match=message):
        prepare(recipes()["ksdd"], reference(ksdd()), source, tmp_path / "sets")
    assert list((tmp_path / "sets").iterdir()) == []


@pytest.mark.parametrize("length", [0, 100, 4000])
def test_a_damaged_file_of_labels_is_named(length: int, tmp_path: Path) -> None:
    (crackforest,) = (download for download in DOWNLOADS if download.name == "crackforest")
    path = crackforest.write(tmp_path / "source") / "groundTruth/001.mat"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DatasetError, match=r"001\.mat: no groundTruth\.Segmentation"):
        prepare(recipes()["crackforest"], reference(crackforest), tmp_path / "source", tmp_path / "sets")


def test_files_that_the_reference_does_not_list_are_refused(tmp_path: Path) -> None:
    source = ksdd().write(tmp_path / "source")
    listed = reference(ksdd())
    some = Reference(counts={"commutator/train/good": 1}, digests={}, chosen=listed.chosen)
    with pytest.raises(DatasetError, match="4 files, of which the reference lists 1"):
        prepare(recipes()["ksdd"], some, source, tmp_path / "sets")


def test_a_set_is_not_overwritten(tmp_path: Path) -> None:
    folder = prepared(ksdd(), tmp_path)
    with pytest.raises(DatasetError, match=r"exists\. Delete it"):
        prepare(recipes()["ksdd"], reference(ksdd()), tmp_path / "source", tmp_path / "sets")
    assert (folder / "SHA256SUMS").is_file()


def test_an_interrupted_run_leaves_no_folder_and_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    source, out = ksdd().write(tmp_path / "source"), tmp_path / "sets"
    recipe = recipes()["ksdd"]

    class Interrupting(dict[str, frozenset[str]]):
        def __missing__(self, folder: str) -> frozenset[str]:
            raise KeyboardInterrupt

    interrupted = Reference(counts={}, digests={}, chosen=Interrupting())
    with pytest.raises(KeyboardInterrupt):
        prepare(recipe, interrupted, source, out)
    assert list(out.iterdir()) == []
    (out / "ksdd.partial/commutator").mkdir(parents=True)
    (out / "ksdd.partial/commutator/half.jpg").write_bytes(b"")
    prepare(recipe, reference(ksdd()), source, out)
    assert list(out.iterdir()) == [out / "ksdd"]
    assert not list(out.rglob("half.jpg"))


def test_the_content_is_compared_with_the_reference(tmp_path: Path) -> None:
    folder = prepared(ksdd(), tmp_path)
    sums = {line[66:]: line[:64] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    right = {
        name: digest({place: sums[place] for place in sums if place.startswith(f"{name}/")}) for name in ksdd().makes
    }
    wrong = right | {"commutator/test/good": "0" * 16}
    told = [
        prepare(recipes()["ksdd"], reference(ksdd(), **digests), tmp_path / "source", tmp_path / out)
        for out, digests in (("right", right), ("wrong", wrong))
    ]
    assert told[0].endswith("4 files in 4 folders, byte for byte those of the reference")
    assert "1 folders have other content than the reference: commutator/test/good. Another version" in told[1]


def test_every_recipe_has_a_reference_whose_counts_and_choice_agree() -> None:
    references = read_references()
    assert references.keys() == recipes().keys()
    for name, one in references.items():
        assert one.digests.keys() in (set(), one.counts.keys()), name
        for folder, names in one.chosen.items():
            assert len(names) == one.counts[folder], f"{name}: {folder}"
    assert sum(references["mvtec_ad"].counts.values()) == 3629 + 1725 + 1258
    assert sum(references["visa"].counts.values()) == 8659 + 2162 + 1200
