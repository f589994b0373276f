"""What people said about parts: pictures and maps below the product's profiles, and as a data set for training.

`<profiles>/<product>/feedback/{good,bad}` hold `<id>.jpg` and `<id>.npy`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zsad_agent.learning.recent import RecentPart
from zsad_agent.system import write_whole
from zsad_agent.teaching import KeptPicture, ProfileStore
from zsad_core.data import GOOD
from zsad_core.errors import ProfileError

BAD = "bad"
EVERY = 5  # every fifth taught picture is for tests
MAX_MARKED = 500  # of each kind and product; the oldest is deleted


def mark(store: ProfileStore, part: RecentPart, *, good: bool) -> None:
    """Stores a part's picture and map as good or as bad.

    Raises:
        OSError: the disk cannot store it.
    """
    product = part.facts.product
    folder, other = (_folder(store, product, kind) for kind in ((GOOD, BAD) if good else (BAD, GOOD)))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{part.id}.npy", part.anomaly_map)
    write_whole(folder / f"{part.id}.jpg", part.picture.jpeg)
    _delete(other, part.id)
    oldest = sorted(folder.glob("*.jpg"), key=lambda path: path.stat().st_mtime_ns)[:-MAX_MARKED]
    for path in oldest:
        _delete(folder, path.stem)


def keep_bad(store: ProfileStore, product: str, pictures: Sequence[KeptPicture]) -> None:
    """Keeps pictures of bad parts, by their ids, as if they were marked.

    Raises:
        OSError: the disk cannot store them.
    """
    folder = _folder(store, product, BAD)
    if pictures:
        folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures[-MAX_MARKED:]:
        write_whole(folder / f"{picture.name}.jpg", picture.jpeg)


def marked(store: ProfileStore, product: str, *, good: bool) -> list[KeptPicture]:
    """The pictures of this kind, by id."""
    folder = _folder(store, product, GOOD if good else BAD)
    return [KeptPicture(name=path.stem, jpeg=path.read_bytes()) for path in sorted(folder.glob("*.jpg"))]


def export_dataset(store: ProfileStore, folder: Path) -> int:
    """Writes what was taught and marked as a data set, as `zsad_core.data.scan_dataset` reads it.

    `<product>/train/good` has four of five pictures that were taught, `test/good` the fifth ones and those that people
    marked as good, `test/bad` those that people marked as bad.

    Returns:
        The number of pictures.

    Raises:
        ProfileError: nothing was taught, a profile is damaged, or the folder exists or cannot be written.
    """
    count = 0
    try:
        folder.mkdir(parents=True)
        for product in store.products():
            profile = store.current(product)
            goods = () if profile is None else profile.goods
            splits = {
                f"train/{GOOD}": [good for number, good in enumerate(goods) if number % EVERY],
                f"test/{GOOD}": [*goods[::EVERY], *marked(store, product, good=True)],
                f"test/{BAD}": marked(store, product, good=False),
            }
            for split, pictures in splits.items():
                for number, picture in enumerate(pictures, start=1):
                    path = folder / product / split / f"{number:04}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(picture.jpeg)
                    count += 1
    except OSError as error:
        raise ProfileError(f"{folder}: the data set cannot be written: {error.strerror or error}") from error
    if not count:
        raise ProfileError(f"{store.folder}: nothing was taught yet")
    return count


def _folder(store: ProfileStore, product: str, kind: str) -> Path:
    return store.folder / product / "feedback" / kind


def _delete(folder: Path, part_id: str) -> None:
    for suffix in (".jpg", ".npy"):
        (folder / f"{part_id}{suffix}").unlink(missing_ok=True)
