"""Trees of industrial data sets, and of plain folders."""

import json

import numpy as np
from layout_trees import AREA, BLANK, IMAGE_LEVEL, LOCO_FILES, PICTURE, SPOT, Case, mvtec_case

from zsad_core.data import LayoutName

KIND_3 = (SPOT > 0).astype(np.uint8) * 3  # VisA's masks hold the kind of defect


def visa_csv_case(layout: LayoutName, setup: str) -> Case:
    split = "train" if setup.startswith("2cls") else "test"
    return Case(
        layout=layout,
        files={
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
            f"{size}/usb/NG/AK/S0003/usb_0003_NG_AK_C1.png": SPOT,
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


INDUSTRIAL = [
    mvtec_case("mvtec_ad", "bottle"),
    mvtec_case("mpdd", "bracket_black"),
    mvtec_case("dtd_synthetic", "Woven_001", mask="000.png"),
    mvtec_case("visa", "candle", defect="bad", mask="000.png", form="1cls_folders"),
    mvtec_case("btad", "01", defect="ko", good="ok", mask="000.png"),
    mvtec_case("btad", "03", defect="ko", good="ok", mask="000.bmp", form="bmp_masks"),
    mvtec_case("dagm", "Class1", mask="000_label.PNG", form="adaclip"),
    mvtec_case("ksdd", "SDD", form="adaclip"),
    Case(
        layout="mvtec_ad_2",
        files={
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
        files=LOCO_FILES,
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
            "kos01/Part0_label.bmp": BLANK,
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
            "train/10000_GT.png": BLANK,
            "train/10301 (copy).png": PICTURE,
            "train/10301_GT (copy).png": BLANK,
            "test/20000_GT.png": SPOT,
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
            "Class1/Train/Label/0002_label.PNG": SPOT,
            "Class1/Train/Label/Labels.txt": "1\n",
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
    Case(
        layout="folder",
        files={
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
            "masks/a.png": BLANK,
            "masks/b_mask.png": SPOT,
        },
        samples=[("test", "set", "good", "images/a.png", 0), ("test", "set", "defect", "images/b.png", AREA)],
        by_content=False,
    ),
]
