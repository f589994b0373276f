"""KolektorSDD: tall images of commutators, cut into square tiles at native resolution."""

from pathlib import Path

from zsad_core.errors import DatasetError
from zsad_training.preparation.output import Output
from zsad_training.preparation.source import Chosen, Recipe, read_defects, read_grey

TILE = 500  # pixels; the width of the images
_LEAST_DEFECT = 150  # pixels of a defective tile


def prepare(source: Path, chosen: Chosen, output: Output) -> None:
    """Cuts each image into a top, a middle and a bottom tile. Good tiles come from images without any defect."""
    for path in sorted(source.glob("kos*/Part*.jpg")):
        image = read_grey(path)
        defect = read_defects(path.with_name(f"{path.stem}_label.bmp"), image.shape)
        height, width = image.shape
        if width != TILE or height < TILE:
            raise DatasetError(
                f"{path}: {width}x{height}, expected {TILE} pixels in width and at least as many in height"
            )
        for index, top in enumerate((0, (height - TILE) // 2, height - TILE)):
            name = f"{path.parent.name}_{path.stem}_{index}"
            tile, mask = image[top : top + TILE], defect[top : top + TILE]
            if mask.sum() >= _LEAST_DEFECT:
                output.jpeg(f"commutator/test/crack/{name}.jpg", tile)
                output.mask(f"commutator/ground_truth/crack/{name}_mask.png", mask)
            for folder in ("commutator/train/good", "commutator/test/good"):
                if name in chosen[folder] and not defect.any():
                    output.jpeg(f"{folder}/{name}.jpg", tile)


KSDD = Recipe(
    name="ksdd",
    download="https://www.vicos.si/resources/kolektorsdd/",
    licence="CC BY-NC-SA 4.0",
    tree=("kos*/Part*.jpg", "kos*/Part*_label.bmp"),
    prepare=prepare,
)
