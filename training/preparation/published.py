"""MVTec AD and VisA: sets whose authors publish the split."""

from pathlib import Path

from zsad_core.data import raise_faults, scan_dataset
from zsad_training.preparation.output import Output
from zsad_training.preparation.source import Chosen, Recipe, read_colour, read_defects, read_grey, shrunk

_SIDE = 640  # pixels, of mvtec_ad_mini
_MVTEC_DOWNLOAD = "https://www.mvtec.com/company/research/datasets/mvtec-ad"


def prepare_mvtec(source: Path, chosen: Chosen, output: Output) -> None:
    """Copies the set as it is."""
    samples, faults = scan_dataset(source, layout="mvtec_ad")
    raise_faults(faults)
    for sample in samples:
        for file in (sample.image, sample.mask):
            if file is not None:
                output.copy(file.relative_to(source).as_posix(), file)


def prepare_mvtec_mini(source: Path, chosen: Chosen, output: Output) -> None:
    """Writes the chosen images of MVTec AD, smaller."""
    for folder, names in sorted(chosen.items()):
        category, _, defect = folder.split("/")
        for name in sorted(names):
            output.jpeg(f"{folder}/{name}.jpg", shrunk(read_colour(source / folder / f"{name}.png"), _SIDE))
            if defect != "good":
                place = f"{category}/ground_truth/{defect}/{name}_mask.png"
                output.mask(place, shrunk(read_grey(source / place), _SIDE, labels=True) > 127)


def prepare_visa(source: Path, chosen: Chosen, output: Output) -> None:
    """Copies the images by the authors' split for one class; their masks number the kinds of defect."""
    samples, faults = scan_dataset(source, layout="visa")
    raise_faults(faults)
    for sample in samples:
        output.copy(f"{sample.product}/{sample.split}/{sample.defect}/{sample.image.name}", sample.image)
        if sample.mask is not None:
            place = f"{sample.product}/ground_truth/{sample.defect}/{sample.image.stem}_mask.png"
            output.mask(place, read_defects(sample.mask, read_colour(sample.image).shape[:2]))


MVTEC_AD = Recipe(
    name="mvtec_ad",
    download=_MVTEC_DOWNLOAD,
    licence="CC BY-NC-SA 4.0",
    tree=("*/train/good/*.png", "*/test/*/*.png", "*/ground_truth/*/*_mask.png"),
    prepare=prepare_mvtec,
)
MVTEC_AD_MINI = Recipe(
    name="mvtec_ad_mini",
    download=_MVTEC_DOWNLOAD,
    licence="CC BY-NC-SA 4.0",
    tree=tuple(f"{category}/test/*/*.png" for category in ("bottle", "capsule", "leather", "metal_nut")),
    prepare=prepare_mvtec_mini,
)
VISA = Recipe(
    name="visa",
    download="https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
    licence="CC BY 4.0",
    tree=("split_csv/1cls.csv", "*/Data/Images/Normal/*", "*/Data/Images/Anomaly/*"),
    prepare=prepare_visa,
)
