"""Trees of medical data sets."""

import numpy as np
from layout_trees import AREA, BLANK, IMAGE_LEVEL, PICTURE, SPOT, Case, mvtec_case

from zsad_core.data import LayoutName


def polyp_case(layout: LayoutName, suffix: str) -> Case:
    return Case(
        layout=layout,
        files={f"masks/1.{suffix}": SPOT},
        samples=[("test", "colon", "polyp", f"images/1.{suffix}", AREA)],
        by_content=False,
    )


def bmad_case(layout: LayoutName, category: str, *, valid: str, ungood: str, masks: str | None) -> Case:
    files: dict[str, np.ndarray | str] = {
        f"{category}/{valid}/{ungood}/{masks}/2.png": SPOT,
        f"{category}/test/{ungood}/{masks}/4.png": SPOT,
        f"{category}/test/good/{masks}/3.png": BLANK,
    }
    area = AREA if masks else IMAGE_LEVEL
    return Case(
        layout=layout,
        form=masks or "no_masks",
        files=files if masks else {},
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
        files={f"{folder}Ground Truth/1.{suffix}": SPOT},
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


MEDICAL = [
    mvtec_case("isic", "isic", mask="000_Segmentation.png", form="adaclip"),
    mvtec_case("cvc_colondb", "ColonDB", mask="000.png", form="adaclip"),
    Case(
        layout="headct",
        form="adaclip",
        samples=[
            ("test", "headct", "good", "headct/test/good/000.png", 0),
            ("test", "headct", "defect", "headct/test/defect/001.png", IMAGE_LEVEL),
        ],
    ),
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
            "ISBI2016_ISIC_Part1_Training_GroundTruth/ISIC_0000000_Segmentation.png": SPOT,
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
            "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png": SPOT,
            "ISIC2018_Task1_Validation_GroundTruth/ISIC_0012255_segmentation.png": SPOT,
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
            "skin/ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000003_Segmentation.png": SPOT,
        },
        samples=[("test", "skin", "melanoma", "skin/test/melanoma/ISIC_0000003.jpg", AREA)],
    ),
    Case(
        layout="tn3k",
        files={
            "trainval-mask/0000.jpg": SPOT,
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
]
