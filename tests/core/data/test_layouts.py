"""Every layout of the table, read from a tiny tree in the form that its authors publish."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from one_dataset import read_dataset

from zsad_core.data import LayoutName
from zsad_core.data.reader import MAX_FAULTS_SHOWN
from zsad_core.data.table import LAYOUTS
from zsad_core.errors import ConfigError, DatasetError
from zsad_training.config import DatasetSpec
from zsad_training.pictures import check_samples, read_datasets
from zsad_training.train import parser, read_config

HW = (16, 24)
PICTURE = np.full((*HW, 3), 120, np.uint8)
BLANK = np.zeros(HW, np.uint8)
SPOT = BLANK.copy()
SPOT[:8, :8] = 255
SPOT_2 = BLANK.copy()
SPOT_2[8:, 16:] = 255
KIND_3 = (SPOT > 0).astype(np.uint8) * 3  # VisA's masks hold the kind of defect
AREA = 64  # pixels of a spot
IMAGE_LEVEL = None  # no pixel truth

Expected = tuple[str, str, str, str, int | None]  # split, product, defect, image, pixels of the mask


@dataclass(frozen=True, kw_only=True)
class Case:
    layout: LayoutName
    files: dict[str, np.ndarray | str]
    samples: list[Expected]
    by_content: bool = True  # auto finds it
    form: str = ""


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


def polyp_case(layout: LayoutName, suffix: str) -> Case:
    return Case(
        layout=layout,
        files={f"images/1.{suffix}": PICTURE, f"masks/1.{suffix}": SPOT},
        samples=[("test", "colon", "polyp", f"images/1.{suffix}", AREA)],
        by_content=False,
    )


def visa_csv_case(layout: LayoutName, setup: str) -> Case:
    split = "train" if setup.startswith("2cls") else "test"
    return Case(
        layout=layout,
        files={
            "candle/Data/Images/Normal/0001.JPG": PICTURE,
            "candle/Data/Images/Normal/0002.JPG": PICTURE,
            "candle/Data/Images/Anomaly/000.JPG": PICTURE,
            "candle/Data/Masks/Anomaly/000.png": KIND_3,
            "candle/image_anno.csv": "image,label,mask\n",
            f"split_csv/{setup}.csv": "object,split,label,image,mask\n"
            "candle,train,normal,candle/Data/Images/Normal/0001.JPG,\n"
            "candle,test,normal,candle/Data/Images/Normal/0002.JPG,\n"
            f"candle,{split},anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png\n",
        },
        samples=[
            ("train", "candle", "good", "candle/Data/Images/Normal/0001.JPG", 0),
            ("test", "candle", "good", "candle/Data/Images/Normal/0002.JPG", 0),
            (split, "candle", "anomaly", "candle/Data/Images/Anomaly/000.JPG", AREA),
        ],
        by_content=setup == "1cls",
    )


def visa_2cls_folders_case(layout: LayoutName) -> Case:
    return Case(
        layout=layout,
        form="folders",
        files={
            "pcb1/train/good/0.JPG": PICTURE,
            "pcb1/train/bad/1.JPG": PICTURE,
            "pcb1/test/good/2.JPG": PICTURE,
            "pcb1/test/bad/3.JPG": PICTURE,
            "pcb1/ground_truth/train/bad/1.png": SPOT,
            "pcb1/ground_truth/test/bad/3.png": SPOT,
        },
        samples=[
            ("train", "pcb1", "good", "pcb1/train/good/0.JPG", 0),
            ("train", "pcb1", "bad", "pcb1/train/bad/1.JPG", AREA),
            ("test", "pcb1", "good", "pcb1/test/good/2.JPG", 0),
            ("test", "pcb1", "bad", "pcb1/test/bad/3.JPG", AREA),
        ],
    )


def real_iad_case(layout: LayoutName, folder: str, size: str) -> Case:
    def entry(anomaly_class: str, image: str, mask: str | None = None) -> dict:
        return {"category": "usb", "anomaly_class": anomaly_class, "image_path": image, "mask_path": mask}

    listing = {
        "meta": {"prefix": "usb/", "normal_class": "OK", "pre_transform": None},
        "train": [entry("OK", "OK/S0001/usb_0001_OK_C1.jpg")],
        "test": [
            entry("OK", "OK/S0002/usb_0002_OK_C1.jpg"),
            entry("AK", "NG/AK/S0003/usb_0003_NG_AK_C1.jpg", "NG/AK/S0003/usb_0003_NG_AK_C1.png"),
            entry("AK", "NG/AK/S0003/usb_0003_NG_AK_C2.jpg"),  # a view from which the defect is not seen
        ],
    }
    return Case(
        layout=layout,
        form=folder.replace("/", "_"),
        files={
            f"{size}/usb/OK/S0001/usb_0001_OK_C1.jpg": PICTURE,
            f"{size}/usb/OK/S0002/usb_0002_OK_C1.jpg": PICTURE,
            f"{size}/usb/NG/AK/S0003/usb_0003_NG_AK_C1.jpg": PICTURE,
            f"{size}/usb/NG/AK/S0003/usb_0003_NG_AK_C1.png": SPOT,
            f"{size}/usb/NG/AK/S0003/usb_0003_NG_AK_C2.jpg": PICTURE,
            f"{folder}/usb.json": json.dumps(listing),
        },
        samples=[
            ("train", "usb", "good", f"{size}/usb/OK/S0001/usb_0001_OK_C1.jpg", 0),
            ("test", "usb", "good", f"{size}/usb/OK/S0002/usb_0002_OK_C1.jpg", 0),
            ("test", "usb", "AK", f"{size}/usb/NG/AK/S0003/usb_0003_NG_AK_C1.jpg", AREA),
            ("test", "usb", "good", f"{size}/usb/NG/AK/S0003/usb_0003_NG_AK_C2.jpg", 0),
        ],
        by_content=layout == "real_iad",
    )


def bmad_case(layout: LayoutName, category: str, *, valid: str, ungood: str, masks: str | None) -> Case:
    files: dict[str, np.ndarray | str] = {
        f"{category}/train/good/0.png": PICTURE,
        f"{category}/{valid}/good/img/1.png": PICTURE,
        f"{category}/{valid}/{ungood}/img/2.png": PICTURE,
        f"{category}/test/good/img/3.png": PICTURE,
        f"{category}/test/{ungood}/img/4.png": PICTURE,
    }
    if masks:
        files |= {
            f"{category}/{valid}/{ungood}/{masks}/2.png": SPOT,
            f"{category}/test/{ungood}/{masks}/4.png": SPOT,
            f"{category}/test/good/{masks}/3.png": BLANK,
        }
    area = AREA if masks else IMAGE_LEVEL
    return Case(
        layout=layout,
        form=masks or "no_masks",
        files=files,
        samples=[
            ("train", category, "good", f"{category}/train/good/0.png", 0),
            ("train", category, "good", f"{category}/{valid}/good/img/1.png", 0),
            ("train", category, "ungood", f"{category}/{valid}/{ungood}/img/2.png", area),
            ("test", category, "good", f"{category}/test/good/img/3.png", 0),
            ("test", category, "ungood", f"{category}/test/{ungood}/img/4.png", area),
        ],
    )


def clinic_case(folder: str, suffix: str) -> Case:
    return Case(
        layout="cvc_clinicdb",
        form=folder.strip("/") or "root",
        files={f"{folder}Original/1.{suffix}": PICTURE, f"{folder}Ground Truth/1.{suffix}": SPOT},
        samples=[("test", "colon", "polyp", f"{folder}Original/1.{suffix}", AREA)],
    )


def yes_no_case(layout: LayoutName, files: list[str], folder: str = "") -> Case:
    return Case(
        layout=layout,
        form=folder.strip("/"),
        files={name: PICTURE for name in files},
        samples=[
            ("test", "brain", "good", f"{folder}no/n1.jpg", 0),
            ("test", "brain", "tumor", f"{folder}yes/y1.jpg", IMAGE_LEVEL),
        ],
    )


CASES = [
    mvtec_case("mvtec_ad", "bottle"),
    mvtec_case("mpdd", "bracket_black"),
    mvtec_case("dtd_synthetic", "Woven_001", mask="000.png"),
    mvtec_case("visa", "candle", defect="bad", mask="000.png", form="1cls_folders"),
    mvtec_case("btad", "01", defect="ko", good="ok", mask="000.png"),
    mvtec_case("btad", "03", defect="ko", good="ok", mask="000.bmp", form="bmp_masks"),
    mvtec_case("dagm", "Class1", mask="000_label.PNG", form="adaclip"),
    mvtec_case("ksdd", "SDD", form="adaclip"),
    mvtec_case("isic", "isic", mask="000_Segmentation.png", form="adaclip"),
    mvtec_case("cvc_colondb", "ColonDB", mask="000.png", form="adaclip"),
    Case(
        layout="headct",
        form="adaclip",
        files={"headct/test/good/000.png": PICTURE, "headct/test/defect/001.png": PICTURE},
        samples=[
            ("test", "headct", "good", "headct/test/good/000.png", 0),
            ("test", "headct", "defect", "headct/test/defect/001.png", IMAGE_LEVEL),
        ],
    ),
    Case(
        layout="mvtec_ad_2",
        files={
            "vial/train/good/000_regular.png": PICTURE,
            "vial/validation/good/001_regular.png": PICTURE,
            "vial/test_public/good/002_regular.png": PICTURE,
            "vial/test_public/bad/003_overexposed.png": PICTURE,
            "vial/test_public/ground_truth/bad/003_overexposed_mask.png": SPOT,
            "vial/test_private/004_regular.png": PICTURE,
            "vial/test_private_mixed/005_mixed.png": PICTURE,
        },
        samples=[
            ("train", "vial", "good", "vial/train/good/000_regular.png", 0),
            ("train", "vial", "good", "vial/validation/good/001_regular.png", 0),
            ("test", "vial", "good", "vial/test_public/good/002_regular.png", 0),
            ("test", "vial", "bad", "vial/test_public/bad/003_overexposed.png", AREA),
        ],
    ),
    Case(
        layout="mvtec_loco",
        files={
            "pushpins/train/good/000.png": PICTURE,
            "pushpins/validation/good/000.png": PICTURE,
            "pushpins/test/good/000.png": PICTURE,
            "pushpins/test/logical_anomalies/000.png": PICTURE,
            "pushpins/test/structural_anomalies/000.png": PICTURE,
            "pushpins/ground_truth/logical_anomalies/000/000.png": SPOT,
            "pushpins/ground_truth/logical_anomalies/000/001.png": SPOT_2,
            "pushpins/ground_truth/structural_anomalies/000/000.png": SPOT,
            "pushpins/defects_config.json": "[]",
        },
        samples=[
            ("train", "pushpins", "good", "pushpins/train/good/000.png", 0),
            ("train", "pushpins", "good", "pushpins/validation/good/000.png", 0),
            ("test", "pushpins", "good", "pushpins/test/good/000.png", 0),
            ("test", "pushpins", "logical_anomalies", "pushpins/test/logical_anomalies/000.png", 2 * AREA),
            ("test", "pushpins", "structural_anomalies", "pushpins/test/structural_anomalies/000.png", AREA),
        ],
    ),
    visa_csv_case("visa", "1cls"),
    visa_csv_case("visa_2cls_fewshot", "2cls_fewshot"),
    visa_csv_case("visa_2cls_highshot", "2cls_highshot"),
    visa_2cls_folders_case("visa_2cls_fewshot"),
    visa_2cls_folders_case("visa_2cls_highshot"),
    Case(
        layout="ksdd",
        files={
            "kos01/Part0.jpg": PICTURE,
            "kos01/Part0_label.bmp": BLANK,
            "kos02/Part5.jpg": PICTURE,
            "kos02/Part5_label.bmp": SPOT,
        },
        samples=[
            ("test", "electrical commutators", "good", "kos01/Part0.jpg", 0),
            ("test", "electrical commutators", "defect", "kos02/Part5.jpg", AREA),
        ],
    ),
    Case(
        layout="ksdd2",
        files={
            "train/10000.png": PICTURE,
            "train/10000_GT.png": BLANK,
            "train/10301 (copy).png": PICTURE,
            "train/10301_GT (copy).png": BLANK,
            "test/20000.png": PICTURE,
            "test/20000_GT.png": SPOT,
            "test/20001.png": PICTURE,
            "test/20001_GT.png": BLANK,
        },
        samples=[
            ("train", "set", "good", "train/10000.png", 0),
            ("test", "set", "defect", "test/20000.png", AREA),
            ("test", "set", "good", "test/20001.png", 0),
        ],
    ),
    Case(
        layout="dagm",
        files={
            "Class1/Train/0001.PNG": PICTURE,
            "Class1/Train/0002.PNG": PICTURE,
            "Class1/Train/Label/0002_label.PNG": SPOT,
            "Class1/Train/Label/Labels.txt": "1\n",
            "Class1/Test/0003.PNG": PICTURE,
            "Class1/Test/0004.PNG": PICTURE,
            "Class1/Test/Label/0004_label.PNG": SPOT,
        },
        samples=[
            ("train", "Class1", "good", "Class1/Train/0001.PNG", 0),
            ("train", "Class1", "defect", "Class1/Train/0002.PNG", AREA),
            ("test", "Class1", "good", "Class1/Test/0003.PNG", 0),
            ("test", "Class1", "defect", "Class1/Test/0004.PNG", AREA),
        ],
    ),
    real_iad_case("real_iad", "realiad_jsons", "realiad_1024"),
    real_iad_case("real_iad", "realiad_jsons/realiad_jsons", "realiad_256"),
    real_iad_case("real_iad_sv", "realiad_jsons_sv", "realiad_1024"),
    real_iad_case("real_iad_sv", "realiad_jsons/realiad_jsons_sv", "realiad_raw"),
    clinic_case("", "tif"),
    clinic_case("PNG/", "png"),
    polyp_case("cvc_clinicdb", "png"),
    polyp_case("cvc_colondb", "png"),
    polyp_case("kvasir_seg", "jpg"),
    polyp_case("endo", "jpg"),
    Case(
        layout="isic",
        form="2016",
        files={
            "ISBI2016_ISIC_Part1_Training_Data/ISIC_0000000.jpg": PICTURE,
            "ISBI2016_ISIC_Part1_Training_GroundTruth/ISIC_0000000_Segmentation.png": SPOT,
            "ISBI2016_ISIC_Part1_Test_Data/ISIC_0000003.jpg": PICTURE,
            "ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000003_Segmentation.png": SPOT,
        },
        samples=[
            ("train", "skin", "lesion", "ISBI2016_ISIC_Part1_Training_Data/ISIC_0000000.jpg", AREA),
            ("test", "skin", "lesion", "ISBI2016_ISIC_Part1_Test_Data/ISIC_0000003.jpg", AREA),
        ],
    ),
    Case(
        layout="isic",
        form="2018",
        files={
            "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg": PICTURE,
            "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png": SPOT,
            "ISIC2018_Task1-2_Validation_Input/ISIC_0012255.jpg": PICTURE,
            "ISIC2018_Task1_Validation_GroundTruth/ISIC_0012255_segmentation.png": SPOT,
            "ISIC2018_Task1-2_Test_Input/ISIC_0012169.jpg": PICTURE,
            "ISIC2018_Task1_Test_GroundTruth/ISIC_0012169_segmentation.png": SPOT,
            "ISIC2018_Task1-2_Test_Input/ATTRIBUTION.txt": "CC",
        },
        samples=[
            ("train", "skin", "lesion", "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg", AREA),
            ("train", "skin", "lesion", "ISIC2018_Task1-2_Validation_Input/ISIC_0012255.jpg", AREA),
            ("test", "skin", "lesion", "ISIC2018_Task1-2_Test_Input/ISIC_0012169.jpg", AREA),
        ],
    ),
    Case(
        layout="isic",
        form="anomalyclip",
        files={
            "skin/test/melanoma/ISIC_0000003.jpg": PICTURE,
            "skin/ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000003_Segmentation.png": SPOT,
        },
        samples=[("test", "skin", "melanoma", "skin/test/melanoma/ISIC_0000003.jpg", AREA)],
    ),
    Case(
        layout="tn3k",
        files={
            "trainval-image/0000.jpg": PICTURE,
            "trainval-mask/0000.jpg": SPOT,
            "test-image/0000.jpg": PICTURE,
            "test-mask/0000.jpg": SPOT,
            "tn3k-trainval-fold0.json": "{}",
        },
        samples=[
            ("train", "thyroid", "nodule", "trainval-image/0000.jpg", AREA),
            ("test", "thyroid", "nodule", "test-image/0000.jpg", AREA),
        ],
    ),
    Case(
        layout="headct",
        files={
            "labels.csv": "id, hemorrhage\n0,1\n1,0\n",
            "head_ct/head_ct/000.png": PICTURE,
            "head_ct/head_ct/001.png": PICTURE,
        },
        samples=[
            ("test", "brain", "hemorrhage", "head_ct/head_ct/000.png", IMAGE_LEVEL),
            ("test", "brain", "good", "head_ct/head_ct/001.png", 0),
        ],
    ),
    yes_no_case("brainmri", ["yes/y1.jpg", "no/n1.jpg"]),
    yes_no_case(  # the archive has all images twice
        "brainmri",
        [f"{folder}{name}" for folder in ("", "brain_tumor_dataset/") for name in ("yes/y1.jpg", "no/n1.jpg")],
        "brain_tumor_dataset/",
    ),
    Case(
        layout="brainmri",
        form="kinds",
        files={
            "Training/notumor/Tr-no_0010.jpg": PICTURE,
            "Training/glioma/Tr-gl_0010.jpg": PICTURE,
            "Testing/notumor/Te-no_0010.jpg": PICTURE,
            "Testing/pituitary/Te-pi_0010.jpg": PICTURE,
        },
        samples=[
            ("train", "brain", "good", "Training/notumor/Tr-no_0010.jpg", 0),
            ("train", "brain", "glioma", "Training/glioma/Tr-gl_0010.jpg", IMAGE_LEVEL),
            ("test", "brain", "good", "Testing/notumor/Te-no_0010.jpg", 0),
            ("test", "brain", "pituitary", "Testing/pituitary/Te-pi_0010.jpg", IMAGE_LEVEL),
        ],
    ),
    yes_no_case("br35h", ["yes/y1.jpg", "no/n1.jpg", "pred/pred0.jpg", "Br35H-Mask-RCNN/TRAIN/y1.jpg"]),
    Case(
        layout="oct17",
        files={
            "train/NORMAL/NORMAL-1-1.jpeg": PICTURE,
            "train/CNV/CNV-1-1.jpeg": PICTURE,
            "val/DME/DME-1-1.jpeg": PICTURE,
            "test/NORMAL/NORMAL-2-1.jpeg": PICTURE,
            "test/DRUSEN/DRUSEN-2-1.jpeg": PICTURE,
        },
        samples=[
            ("train", "retina", "good", "train/NORMAL/NORMAL-1-1.jpeg", 0),
            ("train", "retina", "CNV", "train/CNV/CNV-1-1.jpeg", IMAGE_LEVEL),
            ("train", "retina", "DME", "val/DME/DME-1-1.jpeg", IMAGE_LEVEL),
            ("test", "retina", "good", "test/NORMAL/NORMAL-2-1.jpeg", 0),
            ("test", "retina", "DRUSEN", "test/DRUSEN/DRUSEN-2-1.jpeg", IMAGE_LEVEL),
        ],
    ),
    bmad_case("oct17", "Retina_OCT2017_AD", valid="valid", ungood="Ungood", masks=None),
    bmad_case("his", "Histopathology_AD", valid="valid", ungood="Ungood", masks=None),
    bmad_case("bmad", "Brain_AD", valid="valid", ungood="Ungood", masks="anomaly_mask"),
    bmad_case("bmad", "RESC", valid="val", ungood="ungood", masks="label"),
    Case(
        layout="folder",
        files={
            "good/a.png": PICTURE,
            "scratch/b.png": PICTURE,
            "dent/c.png": PICTURE,
            "ground_truth/scratch/b_mask.png": SPOT,
        },
        samples=[
            ("test", "set", "good", "good/a.png", 0),
            ("test", "set", "scratch", "scratch/b.png", AREA),
            ("test", "set", "dent", "dent/c.png", IMAGE_LEVEL),
        ],
    ),
    Case(
        layout="folder",
        form="pairs",
        files={
            "images/a.png": PICTURE,
            "masks/a.png": BLANK,
            "images/b.png": PICTURE,
            "masks/b_mask.png": SPOT,
        },
        samples=[("test", "set", "good", "images/a.png", 0), ("test", "set", "defect", "images/b.png", AREA)],
        by_content=False,
    ),
]


def read(root: Path, layout: LayoutName) -> list[Expected]:
    found: list[Expected] = []
    for sample in read_dataset(root, layout=layout):
        image, mask = sample.load()
        assert image.shape == PICTURE.shape
        assert sample.dataset == root.name
        area = int(mask.sum()) if sample.has_pixel_truth else IMAGE_LEVEL
        name = sample.image.relative_to(root).as_posix()
        found.append((sample.split, sample.product, sample.defect, name, area))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.layout}-{case.form}".rstrip("-"))
def test_a_published_tree_is_read_by_layout_name_and_if_unique_by_content(case, tmp_path):
    root = make(tmp_path / "set", case.files)
    expected = sorted(case.samples, key=lambda one: one[3])
    assert sorted(read(root, case.layout), key=lambda one: one[3]) == expected
    if case.by_content:
        assert sorted(read(root, "auto"), key=lambda one: one[3]) == expected
    assert check_samples(read_dataset(root, layout=case.layout)) == []


def test_every_layout_of_the_table_has_a_name_and_a_case():
    assert set(get_args(LayoutName)) == {"auto", *LAYOUTS}
    assert {case.layout for case in CASES} == set(LAYOUTS)


@pytest.mark.parametrize("layout", ["mvtec_ad", "btad", "mvtec_ad_2", "mvtec_loco", "dagm", "bmad"])
def test_one_category_is_read_as_the_set_with_only_that_category(layout, tmp_path):
    case = next(case for case in CASES if case.layout == layout)
    root = make(tmp_path / "set", case.files)
    category = root / case.samples[0][1]
    assert read_dataset(category, layout=layout) == read_dataset(root, layout=layout)


def test_a_tree_of_several_layouts_is_refused_with_their_names(tmp_path):
    root = make(tmp_path / "set", {"images/1.png": PICTURE, "masks/1.png": SPOT})
    with pytest.raises(DatasetError, match=r"several layouts fit.*cvc_clinicdb, cvc_colondb, endo, folder, kvasir_seg"):
        read_dataset(root)


def test_a_tree_of_no_layout_is_refused_with_all_names(tmp_path):
    root = make(tmp_path / "set", {"some/1.png": PICTURE})
    with pytest.raises(DatasetError, match=r"no known layout.*bmad, br35h, .*visa_2cls_highshot"):
        read_dataset(root)


def test_a_tree_of_another_layout_is_refused_with_the_expected_folders(tmp_path):
    root = make(tmp_path / "set", mvtec_tree("bottle"))
    with pytest.raises(
        DatasetError, match=r"no tn3k layout here: expected in it test-image/ and test-mask/, or <category>"
    ):
        read_dataset(root / "bottle" / "train", layout="tn3k")


def test_another_mask_folder_is_used_if_the_layout_has_mask_folders(tmp_path):
    files = mvtec_tree("pcb") | {"pcb/ground_truth_xor/hole/000_mask.png": np.maximum(SPOT, SPOT_2)}
    root = make(tmp_path / "set", files)
    bad = [sample for sample in read_dataset(root, mask_folder="ground_truth_xor") if sample.is_anomalous]
    assert [int(sample.load()[1].sum()) for sample in bad] == [2 * AREA]
    tn3k = make(tmp_path / "tn3k", {"test-image/1.jpg": PICTURE, "test-mask/1.jpg": SPOT})
    with pytest.raises(DatasetError, match=r"mask folder 'other'.*has no mask folder"):
        read_dataset(tn3k, mask_folder="other")


def test_hidden_folders_are_ignored(tmp_path):
    root = make(tmp_path / "set", mvtec_tree("bottle") | {"bottle/test/.ipynb_checkpoints/1.png": PICTURE})
    assert len(read_dataset(root)) == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"1cls\.csv:1: no column object, split, label, image, mask; found nothing"),
        ("object,split,label,image\n", r"1cls\.csv:1: no column mask"),
        ("object,split,label,image,mask\nx,train,normal\n", r"1cls\.csv:2: 3 values for 5 columns"),
        ("object,split,label,image,mask\nx,dev,normal,a,\n", r"1cls\.csv:2: split is 'dev', expected train or test"),
        ("object,split,label,image,mask\nx,test,odd,a,\n", r"1cls\.csv:2: label is 'odd'"),
        ("object,split,label,image,mask\nx,test,normal,a.png,\n", r"a\.png: no such picture, but .*1cls\.csv lists it"),
        ("object,split,label,image,mask\nx,test,anomaly,b.png,\n", r"b\.png: no mask is listed in .*1cls\.csv"),
        ("object,split,label,image,mask\nx,test,anomaly,b.png,m.png\n", r"b\.png: no mask: expected .*m\.png"),
    ],
)
def test_an_invalid_csv_is_named_with_its_line(text, complaint, tmp_path):
    root = make(tmp_path / "set", {"split_csv/1cls.csv": text, "b.png": PICTURE})
    lines = faults_of(root)
    assert len(lines) == 1
    assert re.search(complaint, lines[0])


@pytest.mark.parametrize("text", ["", "[]", '{"meta": {"prefix": "x/"}}', '{"meta": {}, "train": [], "test": []}'])
def test_an_invalid_json_is_named(text, tmp_path):
    root = make(tmp_path / "set", {"realiad_jsons/x.json": text, "realiad_1024/x/1.jpg": PICTURE})
    with pytest.raises(DatasetError, match=r"x\.json: not a Real-IAD listing"):
        read_dataset(root)


# Broken trees


def two_parts(root: Path) -> Path:
    """Two images with a defect, 000 and 001, and a good one."""
    extra = {"bottle/test/hole/001.png": PICTURE, "bottle/ground_truth/hole/001_mask.png": SPOT}
    return make(root, mvtec_tree("bottle") | extra)


def faults_of(*roots: Path, check: bool = True) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        read_datasets([DatasetSpec(path=root) for root in roots], check=check)
    return str(caught.value).splitlines()


def test_a_whole_tree_has_no_faults(tmp_path):
    assert len(read_datasets([DatasetSpec(path=two_parts(tmp_path / "set"))])) == 4


def test_every_kind_of_broken_file_is_named_in_one_error(tmp_path):
    root = two_parts(tmp_path / "set")
    picture = root / "bottle/test/hole"
    mask = root / "bottle/ground_truth/hole"
    (mask / "000_mask.png").unlink()
    cv2.imwrite(str(mask / "001_mask.png"), np.full((5, 6), 255, np.uint8))
    cv2.imwrite(str(picture / "002.png"), PICTURE)
    cv2.imwrite(str(mask / "002_mask.png"), BLANK)
    cv2.imwrite(str(picture / "003.png"), PICTURE)
    (mask / "003_mask.png").write_bytes(b"no picture")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    cv2.imwrite(str(root / "bottle/test/good/001.jpg"), noise)
    whole = (root / "bottle/test/good/001.jpg").read_bytes()
    (root / "bottle/test/good/001.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "bottle/test/good/002.png").write_bytes(b"")
    (root / "bottle/test/dent").mkdir()
    lines = faults_of(root)
    assert len(lines) == 7
    for path, complaint in [
        ("test/hole/000.png", "no mask: expected"),
        ("ground_truth/hole/001_mask.png", "the mask is 6x5, its picture 24x16"),
        ("ground_truth/hole/002_mask.png", "the mask is empty"),
        ("ground_truth/hole/003_mask.png", "not an image"),
        ("test/good/001.jpg", "truncated"),
        ("test/good/002.png", "the file is empty"),
        ("test/dent", "no pictures"),
    ]:
        assert [line for line in lines if line.startswith(f"{root}/bottle/{path}:") and complaint in line], path


def test_faults_of_several_sets_are_in_one_error(tmp_path):
    first, second = two_parts(tmp_path / "first"), two_parts(tmp_path / "second")
    (first / "bottle/ground_truth/hole/000_mask.png").unlink()
    (second / "bottle/test/hole/001.png").write_bytes(b"no picture")
    lines = faults_of(first, second, tmp_path / "third")
    assert [line.split(":")[0] for line in lines] == [
        f"{first}/bottle/test/hole/000.png",
        f"{tmp_path / 'third'}",
        f"{second}/bottle/test/hole/001.png",
    ]


def test_without_the_check_only_the_tree_is_checked(tmp_path):
    root = two_parts(tmp_path / "set")
    (root / "bottle/test/hole/001.png").write_bytes(b"no picture")
    assert len(read_datasets([DatasetSpec(path=root)], check=False)) == 4
    (root / "bottle/ground_truth/hole/000_mask.png").unlink()
    assert ["no mask" in line for line in faults_of(root, check=False)] == [True]


def test_only_the_requested_split_is_checked(tmp_path):
    root = two_parts(tmp_path / "set")
    (root / "bottle/train/good/000.png").write_bytes(b"no picture")
    assert len(read_datasets([DatasetSpec(path=root)], split="test")) == 3
    assert ["train/good/000.png" in line for line in faults_of(root)] == [True]


def test_of_many_faults_the_first_are_shown_and_the_rest_counted(tmp_path):
    count = MAX_FAULTS_SHOWN + 3
    root = make(tmp_path / "set", mvtec_tree("bottle"))
    for index in range(count):
        (root / f"bottle/test/good/x{index:02}.png").write_bytes(b"no picture")
    lines = faults_of(root)
    assert len(lines) == MAX_FAULTS_SHOWN + 1
    assert lines[-1] == "… and 3 more"


def test_a_category_without_test_images_is_named(tmp_path):
    root = make(tmp_path / "set", mvtec_tree("bottle") | {"cable/train/good/0.png": PICTURE})
    (root / "cable/test").mkdir()
    assert faults_of(root) == [f"{root}/cable: no test pictures"]


def test_each_part_of_a_mask_is_checked(tmp_path):
    loco = next(case for case in CASES if case.layout == "mvtec_loco")
    root = make(tmp_path / "set", loco.files)
    part = root / "pushpins/ground_truth/logical_anomalies/000/001.png"
    cv2.imwrite(str(part), np.full((4, 4), 255, np.uint8))
    assert faults_of(root) == [f"{part}: the mask is 4x4, its picture 24x16"]
    for file in part.parent.iterdir():
        file.unlink()
    assert faults_of(root) == [
        f"{root}/pushpins/test/logical_anomalies/000.png: no mask: expected pictures in {part.parent}"
    ]


def test_a_broken_mask_that_sets_the_label_is_named_once(tmp_path):
    root = make(tmp_path / "set", {"kos01/Part0.jpg": PICTURE, "kos01/Part0_label.bmp": SPOT})
    (root / "kos01/Part0_label.bmp").write_bytes(b"no picture")
    lines = faults_of(root)
    assert len(lines) == 1
    assert lines[0].startswith(f"{root}/kos01/Part0_label.bmp: ")


def test_a_set_of_defective_images_only_has_pixel_truth(tmp_path):
    root = make(tmp_path / "set", {"images/1.jpg": PICTURE, "masks/1.jpg": SPOT})
    samples = read_dataset(root, layout="kvasir_seg")
    assert all(sample.is_anomalous and sample.has_pixel_truth for sample in samples)


# Flags and settings


def test_the_layout_flag_applies_to_every_data_flag():
    config = read_config(parser().parse_args(["--out", "o", "--data", "a", "b", "--layout", "tn3k"]))
    assert [spec.layout for spec in config.datasets] == ["tn3k", "tn3k"]
    config = read_config(parser().parse_args(["--out", "o", "--data", "a"]))
    assert [spec.layout for spec in config.datasets] == ["auto"]


def test_the_layout_flag_without_sets_is_refused():
    with pytest.raises(ConfigError, match="--layout applies to --data only"):
        read_config(parser().parse_args(["--out", "o", "--layout", "tn3k"]))


def test_an_unknown_layout_in_a_config_file_is_named_with_its_line(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("out: o\ndatasets:\n  - path: a\n    layout: coco\n")
    with pytest.raises(ConfigError, match=r"train\.yaml:4: datasets\.0\.layout: got 'coco'.*'visa'"):
        read_config(parser().parse_args(["--config", str(file)]))
