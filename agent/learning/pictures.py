"""Pictures of parts on disk, a bounded number, drawn so that they represent the whole period.

They lie in `<folder>/train/good/<id>.jpg` and `<folder>/test/bad/<id>.jpg`, as data sets for training do.
"""

import hashlib
import logging
import re
from collections import deque
from functools import partial
from pathlib import Path

import numpy as np

from zsad_agent.system import write_whole
from zsad_agent.teaching import KeptPicture, Looks, Picture
from zsad_core.errors import ImageError
from zsad_core.picture import read_image

logger = logging.getLogger(__name__)

GOODS, BADS = "train/good", "test/bad"
MAX_GIVEN = 1000  # pictures of a kind, when people give more of them
_FILE = re.compile(r"[A-Za-z0-9_.-]{1,200}\.jpg")
_GIVEN = re.compile(r"given\..*\.[0-9a-f]{8}")  # not the id of a result, which ends with its number


def given_id(picture: KeptPicture) -> str:
    """The id of a picture that a person gives: its file's name as far as an id may hold it, and a hash."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(picture.name).stem)[:60]
    return f"given.{name}.{hashlib.sha256(picture.jpeg).hexdigest()[:8]}"


class GatheredPictures:
    """The pictures of one camera and product. For one thread at a time.

    Of all pictures shown, those with the lowest hash of their id stay. So each has the same chance, and the draw
    continues after a restart without any memory of the pictures that were not kept. Those that people give all stay.
    """

    def __init__(self, folder: Path, limit: int, kind: str = GOODS) -> None:
        """Makes the folder of this product, and reads what an earlier run has left. A damaged picture is deleted.

        Args:
            folder: of this product.
            limit: of the pictures that are drawn.
            kind: `GOODS` or `BADS`.

        Raises:
            OSError: it cannot be made or read.
        """
        self._folder, self._limit = folder / kind, limit
        self._folder.mkdir(parents=True, exist_ok=True)
        newest = max(2 * limit, MAX_GIVEN)
        self._looks, self._looked_at = Looks(newest), deque[str](maxlen=newest)  # the same pictures
        self._ranks: dict[str, str] = {}  # id -> hash
        for path in sorted(self._folder.iterdir()):
            try:
                if _FILE.fullmatch(path.name):
                    self._remember(path.stem, read_image(path))
                    self._ranks[path.stem] = _rank(path.stem)
                else:
                    path.unlink()  # of a killed write
            except (ImageError, OSError) as error:
                logger.warning("%s is not used: %s", path, error)
                if isinstance(error, ImageError) and not isinstance(error.__cause__, OSError):
                    path.unlink(missing_ok=True)  # damaged; a disk that cannot read it now may read it later

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, part_id: str) -> bool:
        return part_id in self._ranks

    def show(self, part_id: str, image_bgr: np.ndarray) -> bool:
        """Keeps the picture, uint8 [H, W, 3], if it was drawn. False if it looks like one that was shown lately.

        Raises:
            OSError: the disk cannot store it; the other pictures stay.
        """
        if self._looks.twin(image_bgr) is not None:
            return False
        rank, drawn = _rank(part_id), [known for known in self._ranks if not _GIVEN.fullmatch(known)]
        last = max(drawn, key=self._ranks.__getitem__) if len(drawn) >= self._limit else None
        if last is None or rank < self._ranks[last]:
            self._write(KeptPicture.of(part_id, image_bgr))
            if last is not None:
                self.remove(last)
        self._remember(part_id, image_bgr)
        return True

    def put(self, picture: KeptPicture) -> None:
        """Keeps a picture under its name, an id.

        Raises:
            ImageError: it cannot be decoded.
            OSError: the disk cannot store it.
        """
        image = picture.image()
        self._write(picture)
        self._remember(picture.name, image)

    def twin(self, image_bgr: np.ndarray) -> str | None:
        """The id of a kept picture that looks the same."""
        place = self._looks.twin(image_bgr)
        return self._looked_at[place] if place is not None and self._looked_at[place] in self._ranks else None

    def remove(self, part_id: str) -> bool:
        """Deletes a picture. False if it is not among them."""
        if self._ranks.pop(part_id, None) is None:
            return False
        self.path(part_id).unlink(missing_ok=True)
        return True

    def pictures(self) -> list[tuple[str, Picture]]:
        """Each id with what reads its picture."""
        return [(part_id, partial(read_image, self.path(part_id))) for part_id in sorted(self._ranks)]

    def kept(self) -> list[KeptPicture]:
        """All pictures as they are on the disk."""
        return [KeptPicture(name=part_id, jpeg=self.path(part_id).read_bytes()) for part_id in sorted(self._ranks)]

    def path(self, part_id: str) -> Path:
        """Where a kept picture lies."""
        return self._folder / f"{part_id}.jpg"

    def _write(self, picture: KeptPicture) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        write_whole(self.path(picture.name), picture.jpeg)
        self._ranks[picture.name] = _rank(picture.name)

    def _remember(self, part_id: str, image_bgr: np.ndarray) -> None:
        self._looks.add(image_bgr)
        self._looked_at.append(part_id)


def _rank(part_id: str) -> str:
    return hashlib.sha256(part_id.encode()).hexdigest()
