"""Pictures of parts on disk, a bounded number, drawn so that they represent the whole period.

They lie in `<folder>/<product>/train/good/<id>.jpg`, as data sets for training do.
"""

import hashlib
import logging
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np

from zsad_agent.system import write_whole
from zsad_agent.teaching import KeptPicture, Looks, Picture
from zsad_core.errors import ImageError
from zsad_core.picture import read_image

logger = logging.getLogger(__name__)

_FILE = re.compile(r"[A-Za-z0-9_.-]{1,200}\.jpg")


class GatheredPictures:
    """The pictures of one camera and product. For one thread at a time.

    Of all pictures shown, those with the lowest hash of their id stay. So each has the same chance, and the draw
    continues after a restart without any memory of the pictures that were not kept.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Makes the folder of this product, and reads what an earlier run has left. A damaged picture is deleted.

        Raises:
            OSError: it cannot be made or read.
        """
        self._root, self._folder, self._limit = folder, folder / "train" / "good", limit
        self._folder.mkdir(parents=True, exist_ok=True)
        self._looks = Looks(2 * limit)
        self._ranks: dict[str, str] = {}  # id -> hash
        for path in sorted(self._folder.iterdir()):
            try:
                if _FILE.fullmatch(path.name):
                    self._looks.add(read_image(path))
                    self._ranks[path.stem] = _rank(path.stem)
                else:
                    path.unlink()  # of a killed write
            except (ImageError, OSError) as error:
                logger.warning("%s is not used: %s", path, error)
                path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._ranks)

    def show(self, part_id: str, image_bgr: np.ndarray) -> bool:
        """Keeps the picture, uint8 [H, W, 3], if it was drawn. False if it looks like one that was shown lately.

        Raises:
            OSError: the disk cannot store it; the other pictures stay.
        """
        if self._looks.twin(image_bgr) is not None:
            return False
        rank = _rank(part_id)
        last = max(self._ranks, key=self._ranks.__getitem__) if len(self._ranks) >= self._limit else None
        if last is None or rank < self._ranks[last]:
            write_whole(self._path(part_id), KeptPicture.of(part_id, image_bgr).jpeg)
            self._ranks[part_id] = rank
            if last is not None:
                self.remove(last)
        self._looks.add(image_bgr)
        return True

    def remove(self, part_id: str) -> bool:
        """Deletes a picture. False if it is not among them."""
        if self._ranks.pop(part_id, None) is None:
            return False
        self._path(part_id).unlink(missing_ok=True)
        return True

    def pictures(self) -> list[tuple[str, Picture]]:
        """Each id with what reads its picture."""
        return [(part_id, partial(read_image, self._path(part_id))) for part_id in sorted(self._ranks)]

    def clear(self) -> None:
        """Deletes all pictures."""
        self._ranks.clear()
        self._looks = Looks(2 * self._limit)
        shutil.rmtree(self._root, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)

    def _path(self, part_id: str) -> Path:
        return self._folder / f"{part_id}.jpg"


def _rank(part_id: str) -> str:
    return hashlib.sha256(part_id.encode()).hexdigest()
