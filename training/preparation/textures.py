"""Textures of ambientCG, cut from sheets of previews."""

from pathlib import Path

from zsad_training.preparation.output import Output
from zsad_training.preparation.source import Chosen, Recipe, read_without_alpha

SIDE = 128  # pixels of a preview
_MARGIN, _RIGHT, _DOWN, _COLUMNS = 16, 144, 176, 7  # of a sheet: pixels to the first preview and from one to the next
_WHITE = 255


def prepare(source: Path, chosen: Chosen, output: Output) -> None:
    """Writes the previews that fill their square. The sheets are white between previews and where there is none."""
    for path in sorted(source.glob("previews/*.webp")):
        sheet, count = read_without_alpha(path), 0
        for top in range(_MARGIN, sheet.shape[0] - SIDE, _DOWN):
            for left in range(_MARGIN, _MARGIN + _COLUMNS * _RIGHT, _RIGHT):
                preview = sheet[top : top + SIDE, left : left + SIDE]
                if not (preview[-1] == _WHITE).all() and not (preview[:, -1] == _WHITE).all():
                    count += 1
                    output.jpeg(f"{path.stem}/{count:03}.jpg", preview)


CC0_TEXTURES = Recipe(
    name="cc0_textures",
    download="https://github.com/fabien-michel/sweethome3d-textures-ambientcg (commit 1a47509)",
    licence="CC0-1.0",
    tree=("previews/*.webp",),
    prepare=prepare,
)
