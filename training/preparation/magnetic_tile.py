"""Magnetic tile defects: images of five kinds of defect, and a part of the good images."""

from pathlib import Path

from zsad_training.preparation.output import Output
from zsad_training.preparation.source import Chosen, Recipe, check_size, read_grey

_DEFECTS = ("blowhole", "break", "crack", "fray", "uneven")
_LEAST_DEFECT = 10  # pixels: six images of `uneven` have a mask with less


def prepare(source: Path, chosen: Chosen, output: Output) -> None:
    """Writes the images at native size. Each good image shows another tile, so train and test share none."""
    for defect in _DEFECTS:
        for path in sorted((source / f"MT_{defect.capitalize()}/Imgs").glob("*.jpg")):
            image = read_grey(path)
            labels = path.with_suffix(".png")
            mask = check_size(labels, read_grey(labels), image.shape) > 127
            if mask.sum() >= _LEAST_DEFECT:
                output.jpeg(f"tile/test/{defect}/{path.stem}.jpg", image)
                output.mask(f"tile/ground_truth/{defect}/{path.stem}_mask.png", mask)
    for folder in ("tile/train/good", "tile/test/good"):
        for name in sorted(chosen[folder]):
            output.jpeg(f"{folder}/{name}.jpg", read_grey(source / f"MT_Free/Imgs/{name}.jpg"))


MAGNETIC_TILE = Recipe(
    name="magnetic_tile",
    download="https://github.com/abin24/Magnetic-tile-defect-datasets. (commit cc4eb53; the name ends in a dot)",
    licence="free use, citation asked",
    tree=tuple(f"MT_{kind.capitalize()}/Imgs/*.jpg" for kind in (*_DEFECTS, "free")),
    prepare=prepare,
)
