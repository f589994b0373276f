"""The table of layouts: how each published data set arranges its files. `zsad_core.data.reader` uses it.

A comment at each layout names the source that documents it.
"""

from typing import Literal

from zsad_core.data.layout import Listing, Pictures, Tree
from zsad_core.data.listings import head_ct_rows, real_iad_rows, visa_rows
from zsad_core.data.sample import GOOD, Split

LayoutName = Literal[
    "auto",
    "bmad",
    "br35h",
    "brainmri",
    "btad",
    "cvc_clinicdb",
    "cvc_colondb",
    "dagm",
    "dtd_synthetic",
    "endo",
    "folder",
    "headct",
    "his",
    "isic",
    "ksdd",
    "ksdd2",
    "kvasir_seg",
    "mpdd",
    "mvtec_ad",
    "mvtec_ad_2",
    "mvtec_loco",
    "oct17",
    "real_iad",
    "real_iad_sv",
    "tn3k",
    "visa",
    "visa_2cls_fewshot",
    "visa_2cls_highshot",
]

_SPLITS: tuple[Split, Split] = ("train", "test")

# Mask names in trees of MVTec form. MVTec AD uses <stem>_mask. AdaCLIP's DAGM keeps <stem>_label (github.com/
# caoyunkang/AdaCLIP, data_preprocess/dagm-pre.py). Its reader pairs files by order, so ISIC may keep its names too.
_MASK_NAMES = ("{stem}_mask", "{stem}", "{stem}_label", "{stem}_Segmentation", "{stem}_segmentation")


def _mvtec(*, good: str = GOOD, general: bool = False, marks: tuple[str, ...] = ("{category}/test/",)) -> Tree:
    masks = tuple(f"{{category}}/{{masks}}/{{defect}}/{name}" for name in _MASK_NAMES)
    pictures = tuple(
        Pictures(folder=f"{{category}}/{split}/{{defect}}", split=split, good=good, truth="where_folder", masks=masks)
        for split in _SPLITS
    )
    return Tree(marks=marks, pictures=pictures, mask_folder="ground_truth", general=general)


def _pairs(images: str, masks: str, *, defect: str, name: str = "{stem}", split: Split = "test") -> Pictures:
    """Images that all have a defect and a mask, as in data sets for segmentation."""
    return Pictures(folder=images, split=split, defect=defect, truth="needed", masks=(f"{masks}/{name}",))


# mvtec.com/company/research/datasets/mvtec-ad; anomalib, data/datasets/image/mvtecad.py. Also in this form: MPDD
# (github.com/stepanje/MPDD; anomalib, mpdd.py), DTD-Synthetic (AnomalyCLIP, generate_dataset_json/DTD.py), VisA as
# written for 1cls by prepare_data.py of github.com/amazon-science/spot-diff, and the data sets that AdaCLIP repackages.
MVTEC = _mvtec(general=True)

# anomalib, mvtecad2.py. test_private and test_private_mixed have no labels and are left out.
MVTEC_AD_2 = Tree(
    marks=("{category}/test_public/",),
    pictures=(
        Pictures(folder="{category}/train/good", split="train", defect=GOOD),
        Pictures(folder="{category}/validation/good", split="train", defect=GOOD),
        Pictures(folder="{category}/test_public/good", defect=GOOD),
        Pictures(
            folder="{category}/test_public/bad",
            defect="bad",
            truth="needed",
            masks=("{category}/test_public/{masks}/bad/{stem}_mask",),
        ),
    ),
    mask_folder="ground_truth",
)

# anomalib, mvtec_loco.py: each anomalous image has a folder of masks, one mask per defect.
MVTEC_LOCO = Tree(
    marks=("{category}/test/", "{category}/test/logical_anomalies/"),
    pictures=(
        Pictures(folder="{category}/train/good", split="train", defect=GOOD),
        Pictures(folder="{category}/validation/good", split="train", defect=GOOD),
        Pictures(folder="{category}/test/{defect}", truth="needed", masks=("{category}/{masks}/{defect}/{stem}/",)),
    ),
    mask_folder="ground_truth",
)


def _visa(setup: str) -> Tree:
    listing = Listing(files=f"split_csv/{setup}.csv", rows=visa_rows, base=("",), has_masks=True)
    return Tree(marks=(listing.files,), listing=listing, found_by_content=setup == "1cls")


# github.com/amazon-science/spot-diff: split_csv/*.csv over <object>/Data/Images/{Normal,Anomaly}; mask values above 0
# are kinds of defect. utils/prepare_data.py writes the two-class folder form.
VISA_2CLS_FOLDERS = Tree(
    marks=("{category}/ground_truth/test/bad/",),
    pictures=tuple(
        Pictures(
            folder=f"{{category}}/{split}/{{defect}}",
            split=split,
            truth="needed",
            masks=(f"{{category}}/{{masks}}/{split}/{{defect}}/{{stem}}",),
        )
        for split in _SPLITS
    ),
    mask_folder="ground_truth",
)

# anomalib, btech.py; AdaCLIP, data_preprocess/btad.py. Categories 01, 02 and 03 differ in the formats of images and
# masks (.bmp, .png).
BTAD = _mvtec(good="ok", marks=("{category}/test/", "{category}/test/ok/"))

# github.com/vicoslab/mixed-segdec-net-comind2021, data/input_ksdd.py; anomalib, kolektor.py. The published split has
# three folds and no test set, so all images count as test. AnomalyCLIP's prompt is "electrical commutators".
KSDD = Tree(
    marks=("kos*/*_label.bmp",),
    pictures=(
        Pictures(
            folder="{item}",
            defect="defect",
            truth="blank_is_good",
            masks=("{dir}/{stem}_label",),
            other=r".*_label",
        ),
    ),
    product="electrical commutators",
)

# The same repository, data/input_ksdd2.py. The published archive has one image and its mask twice, as "10301 (copy)".
KSDD2 = Tree(
    marks=("test/*_GT.png",),
    pictures=tuple(
        Pictures(
            folder=split,
            split=split,
            defect="defect",
            truth="blank_is_good",
            masks=("{dir}/{stem}_GT",),
            other=r".*_GT|.* \(copy\)",
        )
        for split in _SPLITS
    ),
)

# The same repository, data/input_dagm.py; AnomalyCLIP, generate_dataset_json/DAGM.py.
DAGM = Tree(
    marks=("{category}/Test/Label/",),
    pictures=tuple(
        Pictures(
            folder=f"{{category}}/{split.capitalize()}",
            split=split,
            defect="defect",
            truth="absent_is_good",
            masks=("{dir}/Label/{stem}_label",),
            other=r".*_label",
        )
        for split in _SPLITS
    ),
)


def _real_iad(folder: str, *, found_by_content: bool) -> Tree:
    listing = Listing(
        files=f"{folder}/*.json",
        rows=real_iad_rows,
        # The authors' experiments use 1024. A download of a single size has only that folder.
        base=("realiad_1024", "realiad_512", "realiad_256", "realiad_raw"),
        has_masks=True,
    )
    return Tree(marks=(listing.files,), listing=listing, found_by_content=found_by_content)


# github.com/MediaBrain-SJTU/MVFA-AD, dataset/medical_zero.py (masks in anomaly_mask); anomalib, bmad.py (masks in
# label). BMAD itself uses both val and valid, both Ungood and ungood. HIS, OCT2017 and chest have no masks.
BMAD = Tree(
    marks=("{category}/test/", "{category}/test/good/img/"),
    pictures=(
        Pictures(folder="{category}/train/good", split="train", defect=GOOD),
        *(
            Pictures(folder=f"{{category}}/{part}/good/img", split="test" if part == "test" else "train", defect=GOOD)
            for part in ("valid", "val", "test")
        ),
        *(
            Pictures(
                folder=f"{{category}}/{part}/{bad}/img",
                split="test" if part == "test" else "train",
                defect="ungood",
                truth="where_folder",
                masks=(
                    f"{{category}}/{part}/{bad}/label/{{stem}}",
                    f"{{category}}/{part}/{bad}/anomaly_mask/{{stem}}",
                ),
            )
            for part in ("valid", "val", "test")
            for bad in ("Ungood", "ungood")
        ),
    ),
)

# Polyps: AnomalyCLIP, generate_dataset_json/{clinicDB,colonDB,kvasir,endoTect}.py; AVA-DINO, Datasets/kvasirseg.py.
# CVC-ColonDB is the version in PraNet's TestDataset. The prompt is "colon", as in AnomalyCLIP.
_POLYPS = Tree(
    marks=("images/", "masks/"), pictures=(_pairs("images", "masks", defect="polyp"),), product="colon", general=True
)


def _clinic(folder: str) -> Tree:
    """polyp.grand-challenge.org/CVCClinicDB: Original and Ground Truth. Kaggle's copy has both in PNG and in TIF."""
    images, masks = f"{folder}Original", f"{folder}Ground Truth"
    return Tree(marks=(f"{images}/", f"{masks}/"), pictures=(_pairs(images, masks, defect="polyp"),), product="colon")


# challenge.isic-archive.com/data: 2016 (part 1) and 2018 (task 1), with separate folders for images and masks of each
# split. AnomalyCLIP (generate_dataset_json/isbi.py) has the test split of 2016 in another tree, and the prompt "skin".
ISIC_2016 = Tree(
    marks=("ISBI2016_ISIC_Part1_*_GroundTruth/", "ISBI2016_ISIC_Part1_*_Data/"),
    pictures=tuple(
        _pairs(
            f"ISBI2016_ISIC_Part1_{part}_Data",
            f"ISBI2016_ISIC_Part1_{part}_GroundTruth",
            defect="lesion",
            name="{stem}_Segmentation",
            split=split,
        )
        for part, split in (("Training", _SPLITS[0]), ("Test", _SPLITS[1]))
    ),
    product="skin",
)
ISIC_2018 = Tree(
    marks=("ISIC2018_Task1_*_GroundTruth/", "ISIC2018_Task1-2_*_Input/"),
    pictures=tuple(
        _pairs(
            f"ISIC2018_Task1-2_{part}_Input",
            f"ISIC2018_Task1_{part}_GroundTruth",
            defect="lesion",
            name="{stem}_segmentation",
            split=split,
        )
        for part, split in (("Training", _SPLITS[0]), ("Validation", _SPLITS[0]), ("Test", _SPLITS[1]))
    ),
    product="skin",
)
ISIC_ANOMALYCLIP = Tree(
    marks=("{category}/test/", "{category}/ISBI2016_ISIC_Part1_Test_GroundTruth/"),
    pictures=(
        Pictures(
            folder="{category}/test/{defect}",
            truth="needed",
            masks=("{category}/ISBI2016_ISIC_Part1_Test_GroundTruth/{stem}_Segmentation",),
        ),
    ),
)

# github.com/haifangong/TRFE-Net-for-thyroid-nodule-segmentation; AVA-DINO, Datasets/tn3k.py; AnomalyCLIP, tn3k.py.
TN3K = Tree(
    marks=("test-image/", "test-mask/"),
    pictures=(
        _pairs("trainval-image", "trainval-mask", defect="nodule", split="train"),
        _pairs("test-image", "test-mask", defect="nodule"),
    ),
    product="thyroid",
)

# AdaCLIP, data_preprocess/headct-pre.py; AVA-DINO, Datasets/headct.py. The prompt is "brain", as in AnomalyCLIP.
HEADCT = Tree(
    marks=("labels.csv", "head_ct/"),
    listing=Listing(files="labels.csv", rows=head_ct_rows, base=("head_ct/head_ct", "head_ct"), has_masks=False),
    product="brain",
)


def _tumours(folder: str, *, general: bool) -> Tree:
    """AnomalyCLIP, generate_dataset_json/{brainmri,br35}.py; AVA-DINO, Datasets/br35h.py: yes and no, no masks.

    BrainMRI's archive has its images twice, in the root and in brain_tumor_dataset. Br35H also has a folder of
    unlabelled images, and polygon annotations.
    """
    return Tree(
        marks=(f"{folder}yes/", f"{folder}no/"),
        pictures=(
            Pictures(folder=f"{folder}no", defect=GOOD),
            Pictures(folder=f"{folder}yes", defect="tumor"),
        ),
        product="brain",
        general=general,
    )


# AVA-DINO, Datasets/brainmri.py, uses another data set of that name. A model made its masks, so they are not used.
BRAINMRI_KINDS = Tree(
    marks=("Training/notumor/", "Testing/notumor/"),
    pictures=(
        Pictures(folder="Training/{defect}", split="train", good="notumor"),
        Pictures(folder="Testing/{defect}", good="notumor"),
    ),
    product="brain",
)

# kaggle.com/datasets/paultimothymooney/kermany2018: the folder is the disease. The papers use BMAD's version.
OCT2017 = Tree(
    marks=("test/NORMAL/", "train/NORMAL/"),
    pictures=tuple(
        Pictures(folder=f"{part}/{{defect}}", split="test" if part == "test" else "train", good="NORMAL")
        for part in ("train", "val", "test")
    ),
    product="retina",
)

# Ours, after anomalib's Folder: good/ and one folder per defect, with or without masks; or pairs of image and mask, in
# which a blank mask means good.
FOLDER = Tree(
    marks=("good/",),
    pictures=(
        Pictures(
            folder="{defect}",
            truth="where_folder",
            masks=tuple(f"{{masks}}/{{defect}}/{name}" for name in _MASK_NAMES),
        ),
    ),
    mask_folder="ground_truth",
    general=True,
)
FOLDER_PAIRS = Tree(
    marks=("images/", "masks/"),
    pictures=(
        Pictures(
            folder="images",
            defect="defect",
            truth="blank_is_good",
            masks=tuple(f"{{masks}}/{name}" for name in _MASK_NAMES),
        ),
    ),
    mask_folder="masks",
    general=True,
)

LAYOUTS: dict[LayoutName, tuple[Tree, ...]] = {
    "mvtec_ad": (MVTEC,),
    "mvtec_ad_2": (MVTEC_AD_2,),
    "mvtec_loco": (MVTEC_LOCO,),
    "visa": (_visa("1cls"), VISA_2CLS_FOLDERS, MVTEC),
    "visa_2cls_fewshot": (_visa("2cls_fewshot"), VISA_2CLS_FOLDERS),
    "visa_2cls_highshot": (_visa("2cls_highshot"), VISA_2CLS_FOLDERS),
    "btad": (BTAD, MVTEC),
    "mpdd": (MVTEC,),
    "ksdd": (KSDD, MVTEC),
    "ksdd2": (KSDD2, MVTEC),
    "dagm": (DAGM, MVTEC),
    "dtd_synthetic": (MVTEC,),
    # github.com/Tencent/AnomalyDetection_Real-IAD, README.md and datasets/explicit_dataset.py: one listing per
    # category, multi-view or single-view. For the doubled folder of its archive: anomalib, realiad.py.
    "real_iad": (
        _real_iad("realiad_jsons", found_by_content=True),
        _real_iad("realiad_jsons/realiad_jsons", found_by_content=True),
    ),
    "real_iad_sv": (
        _real_iad("realiad_jsons_sv", found_by_content=False),
        _real_iad("realiad_jsons/realiad_jsons_sv", found_by_content=False),
    ),
    "cvc_clinicdb": (_clinic(""), _clinic("PNG/"), _clinic("TIF/"), _POLYPS, MVTEC),
    "cvc_colondb": (_POLYPS, MVTEC),
    "kvasir_seg": (_POLYPS, MVTEC),
    "endo": (_POLYPS, MVTEC),
    "isic": (ISIC_2016, ISIC_2018, ISIC_ANOMALYCLIP, MVTEC),
    "tn3k": (TN3K, MVTEC),
    "headct": (HEADCT, MVTEC),
    "brainmri": (
        _tumours("brain_tumor_dataset/", general=False),
        _tumours("", general=True),
        BRAINMRI_KINDS,
        MVTEC,
    ),
    "br35h": (_tumours("", general=True), MVTEC),
    "oct17": (OCT2017, BMAD),
    "his": (BMAD,),
    "bmad": (BMAD,),
    "folder": (FOLDER, FOLDER_PAIRS),
}
