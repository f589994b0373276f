"""Small trees in the form of the authors' downloads, for `zsad-prepare`, and what it makes of them."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from layout_trees import make
from scipy.io import savemat

GREY = np.full((40, 60, 3), 120, np.uint8)
MASK = np.zeros((40, 60), np.uint8)
MASK[10:16, 20:30] = 255
FAINT = np.full_like(MASK, 100)  # JPEG-like marks in a mask: not above 127
FEW = np.zeros_like(MASK)
FEW[0, :9] = 255
COOKIES = "computer-vision-defect-detection/cookie-dataset"


@dataclass(frozen=True, kw_only=True)
class Download:
    """A download and the prepared set: folder -> file stems."""

    name: str
    files: dict[str, np.ndarray | str]
    chosen: dict[str, frozenset[str]] = field(default_factory=dict)
    makes: dict[str, set[str]]

    def write(self, root: Path) -> Path:
        make(root, self.files)
        if self.name == "crackforest":
            write_crack_labels(root / "groundTruth")
        return root


def board(*, spot: bool = False, speck: bool = False) -> np.ndarray:
    """A binary image with a trace; `spot` in the box of `BOX`, `speck` is a single pixel beside it."""
    image = np.zeros((64, 64), np.uint8)
    image[:, 30:34] = 255
    if spot:
        image[10:14, 40:45] = 255
        image[50:56, 4:12] = 255  # differs from the template outside of every box
    if speck:
        image[18, 42] = 255
    return image


BOX = "38 8 47 16 5\n"


def deeppcb() -> Download:
    files: dict[str, np.ndarray | str] = {}
    for name in ("12100001", "00041001", "00041002"):
        folder = f"PCBData/group{name[:5]}/{name[:5]}"
        files |= {f"{folder}/{name}_temp.jpg": board(), f"{folder}/{name}_test.jpg": board(spot=True, speck=True)}
        files[f"{folder}_not/{name}.txt"] = BOX
    chosen = {
        "pcb/train/good": frozenset({"12100001"}),
        "pcb/test/good": frozenset({"00041001"}),
        "pcb/test/mixed": frozenset({"00041002"}),
    }
    makes = {
        "pcb/train/good": {"12100001"},
        "pcb/test/good": {"00041001_temp"},
        "pcb/test/mixed": {"00041002_test"},
        "pcb/ground_truth/mixed": {"00041002_test_mask"},
        "pcb/ground_truth_xor/mixed": {"00041002_test_mask"},
    }
    return Download(name="deeppcb", files=files, chosen=chosen, makes=makes)


def ksdd() -> Download:
    image, clean = np.full((1100, 500), 90, np.uint8), np.zeros((1100, 500), np.uint8)
    cracked = clean.copy()
    cracked[820:830, 100:120] = 255  # 200 pixels, in the lowest tile, and not in the middle one: it ends at 800
    cracked[0, :149] = 255  # one pixel less than a defective tile has
    files: dict[str, np.ndarray | str] = {}
    for item, label in (("kos01/Part0", clean), ("kos21/Part0", clean), ("kos21/Part1", cracked)):
        files |= {f"{item}.jpg": image, f"{item}_label.bmp": label}
    chosen = {
        "commutator/train/good": frozenset({"kos01_Part0_1"}),
        "commutator/test/good": frozenset({"kos21_Part0_0", "kos21_Part1_1"}),  # the second image has a defect
    }
    makes = {
        "commutator/train/good": {"kos01_Part0_1"},
        "commutator/test/good": {"kos21_Part0_0"},
        "commutator/test/crack": {"kos21_Part1_2"},
        "commutator/ground_truth/crack": {"kos21_Part1_2_mask"},
    }
    return Download(name="ksdd", files=files, chosen=chosen, makes=makes)


def crackforest() -> Download:
    photograph = np.full((320, 480, 3), 130, np.uint8)
    stems = ("001", "202", "204", "205", "208")
    whole = {f"{stem}_{index}" for stem in stems[1:] for index in range(4)}
    trained = {"001_g0_0", "204_1"}
    return Download(
        name="crackforest",
        files={f"image/{stem}.jpg": photograph for stem in stems},
        chosen={"road/train/good": frozenset(trained), "road/test/crack": frozenset({"001_3", "001_1"})},
        makes={
            "road/train/good": trained,
            "road/test/good": (whole | {"001_g0_120", "001_g0_240"}) - trained,
            "road/test/crack": {"001_3"},  # quarter 1 has no crack
            "road/ground_truth/crack": {"001_3_mask"},
        },
    )


def write_crack_labels(folder: Path) -> None:
    """Labels of photograph 001: a crack of 2 and 4 in the lower right quarter, and enclosed road, 3, above it."""
    labels = np.ones((320, 480), np.uint8)
    labels[20:60, 300:340] = 3
    labels[250, 260:400], labels[251, 260:300] = 2, 4
    folder.mkdir()
    savemat(folder / "001.mat", {"groundTruth": {"Segmentation": labels, "Boundaries": labels}})


def magnetic_tile() -> Download:
    files: dict[str, np.ndarray | str] = {}
    for kind in ("Blowhole", "Break", "Crack", "Fray"):
        files |= {f"MT_{kind}/Imgs/exp1_num_1.jpg": GREY, f"MT_{kind}/Imgs/exp1_num_1.png": np.maximum(MASK, FAINT)}
    for name, mask in (("exp1_num_2", MASK), ("exp1_num_3", FEW), ("exp1_num_4", FAINT)):
        files |= {f"MT_Uneven/Imgs/{name}.jpg": GREY, f"MT_Uneven/Imgs/{name}.png": mask}
    files |= {f"MT_Free/Imgs/exp1_num_{number}.jpg": GREY for number in (7, 8, 9)}
    kinds = {"blowhole": "exp1_num_1", "break": "exp1_num_1", "crack": "exp1_num_1", "fray": "exp1_num_1"}
    kinds["uneven"] = "exp1_num_2"
    good = {"tile/train/good": frozenset({"exp1_num_7"}), "tile/test/good": frozenset({"exp1_num_9"})}
    makes = {f"tile/test/{kind}": {name} for kind, name in kinds.items()}
    makes |= {f"tile/ground_truth/{kind}": {f"{name}_mask"} for kind, name in kinds.items()}
    makes |= {folder: set(names) for folder, names in good.items()}
    return Download(name="magnetic_tile", files=files, chosen=good, makes=makes)


def cookie() -> Download:
    photograph = np.full((1280, 960, 3), 200, np.uint8)
    label = np.zeros((1280, 960, 4), np.uint8)
    label[100:200, 100:300] = (0x36, 0xA4, 0x23, 255)  # BGRA of #23A436
    label[500:600, 100:300] = (0, 0, 255, 255)  # another label
    folder = f"{COOKIES}/dataset-files"
    files: dict[str, np.ndarray | str] = {
        f"{folder}/training-images/anomaly-1.jpg": photograph,
        f"{folder}/mask-images/anomaly-1.png": label,
        f"{COOKIES}/test-images/test-anomaly-1.jpg": photograph,
        f"{COOKIES}/test-images/test-normal-1.jpg": photograph,
    }
    files |= {f"{folder}/training-images/normal-{number}.jpg": photograph for number in (1, 2)}
    makes = {
        "cookie/train/good": {"normal-2"},
        "cookie/test/good": {"normal-1", "test-normal-1"},
        "cookie/test/cracked": {"anomaly-1"},
        "cookie/ground_truth/cracked": {"anomaly-1_mask"},
        "cookie/test/cracked_nomask": {"test-anomaly-1"},
    }
    return Download(name="aws_cookie", files=files, chosen={"cookie/train/good": frozenset({"normal-2"})}, makes=makes)


def aliens() -> Download:
    files: dict[str, np.ndarray | str] = {f"aliens-dataset/normal/{number}.png": GREY for number in (1, 2)}
    files["aliens-dataset/anomaly/1.png"] = GREY
    makes = {"toy_alien/train/good": {"n2"}, "toy_alien/test/good": {"n1"}, "toy_alien/test/anomaly": {"a1"}}
    return Download(name="aws_aliens", files=files, chosen={"toy_alien/train/good": frozenset({"n2"})}, makes=makes)


def textures() -> Download:
    """A sheet of two rows of seven: a whole preview, a flat one and a narrow one (with white), then none."""
    sheet = np.full((384, 1024, 3), 255, np.uint8)
    sheet[16:144, 16:144] = 80
    sheet[16:100, 160:288] = 80
    sheet[16:144, 304:400] = 80
    sheet[192:320, 16:144] = 160
    return Download(name="cc0_textures", files={"previews/Wood.webp": sheet}, makes={"Wood": {"001", "002"}})


def mvtec(name: str) -> Download:
    """Four categories; `mvtec_ad_mini` takes one of the two images of each folder."""
    image, mask = cv2.resize(GREY, (960, 960)), cv2.resize(MASK, (960, 960), interpolation=cv2.INTER_NEAREST)
    files: dict[str, np.ndarray | str] = {}
    chosen: dict[str, frozenset[str]] = {}
    makes: dict[str, set[str]] = {}
    numbers = {"000", "001"}
    for category in ("bottle", "capsule", "leather", "metal_nut"):
        for number in sorted(numbers):
            files |= {f"{category}/{folder}/{number}.png": image for folder in ("train/good", "test/good", "test/cut")}
            files[f"{category}/ground_truth/cut/{number}_mask.png"] = mask
        kept = {"001"} if name == "mvtec_ad_mini" else numbers
        chosen |= {f"{category}/test/{defect}": frozenset(kept) for defect in ("good", "cut")}
        makes |= {folder: kept for folder in chosen if folder.startswith(category)}
        makes[f"{category}/ground_truth/cut"] = {f"{number}_mask" for number in kept}
        if name == "mvtec_ad":
            makes[f"{category}/train/good"] = kept
    return Download(name=name, files=files, chosen=chosen if name == "mvtec_ad_mini" else {}, makes=makes)


def visa() -> Download:
    kinds = np.where(MASK > 0, 2, 0).astype(np.uint8)  # the mask's value is the kind of defect
    rows = [
        "object,split,label,image,mask",
        "candle,train,normal,candle/Data/Images/Normal/0000.JPG,",
        "candle,test,normal,candle/Data/Images/Normal/0001.JPG,",
        "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png",
    ]
    images = ("Normal/0000.JPG", "Normal/0001.JPG", "Anomaly/000.JPG")
    files: dict[str, np.ndarray | str] = {f"candle/Data/Images/{place}": GREY for place in images}
    files |= {"candle/Data/Masks/Anomaly/000.png": kinds, "split_csv/1cls.csv": "\n".join(rows) + "\n"}
    makes = {
        "candle/train/good": {"0000"},
        "candle/test/good": {"0001"},
        "candle/test/anomaly": {"000"},
        "candle/ground_truth/anomaly": {"000_mask"},
    }
    return Download(name="visa", files=files, makes=makes)


DOWNLOADS = (
    deeppcb(), ksdd(), crackforest(), magnetic_tile(), cookie(), aliens(), textures(), mvtec("mvtec_ad"),
    mvtec("mvtec_ad_mini"), visa(),
)  # fmt: skip
