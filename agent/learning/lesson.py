"""One lesson: the pictures that were gathered for a product at a camera, and the offer made of them. See `line`."""

import contextlib
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zsad_agent.learning.offer import Asked, Offer, make_offer
from zsad_agent.learning.pictures import GatheredPictures
from zsad_agent.system import read_json, write_whole
from zsad_agent.teaching import KeptPicture, Picture, Taught, read, write_profile
from zsad_core.errors import ImageError

logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 1_000_000
THUMBNAIL_SIDE = 160  # of a picture that was left out, pixels


@dataclass(slots=True)
class Lesson:
    """What is learned at one camera about one product."""

    product: str
    folder: Path
    pictures: GatheredPictures
    asked: Asked | None  # None: learned from the line, without being asked
    needed: int  # pictures for the first attempt
    due: int  # new pictures until the next attempt
    pause: int  # the same after this attempt; doubles with each one
    offer: Offer | None
    text: str = ""  # what happened last, for people
    last_s: float = -math.inf  # time of the last picture

    def store_offer(self, taught: Taught, pictures: Mapping[str, Picture]) -> None:
        """Writes the profile, its figures, and thumbnails of what was left out.

        Raises:
            OSError: the disk cannot store it.
            ProfileError: the same, of the profile.
        """
        (self.folder / "offer.json").unlink(missing_ok=True)  # no figures of another profile after a kill
        written = write_profile(taught.profile, self.folder / "offer.profile")
        offer = make_offer(taught, written.sha256, len(pictures), trusted=self.asked is not None)
        write_whole(self.folder / "offer.json", offer.model_dump_json().encode())
        thumbnails = self.folder / "left_out"
        shutil.rmtree(thumbnails, ignore_errors=True)
        thumbnails.mkdir()
        for entry in offer.named:
            with contextlib.suppress(ImageError):
                picture = KeptPicture.of(entry.id, read(pictures[entry.id]), max_side=THUMBNAIL_SIDE)
                (thumbnails / f"{entry.id}.jpg").write_bytes(picture.jpeg)
        self.offer = offer
        self.text = (
            f"learned {offer.goods} of {offer.pictures} pictures, false rejects about {offer.false_reject_rate:.1%}, "
            f"with 90 % confidence at most {offer.false_reject_rate_90:.1%}"
        )


def open_lesson(folder: Path, product: str, asked: Asked | None, needed: int) -> Lesson:
    """The lesson in a folder, which is made if there is none.

    Raises:
        OSError: it cannot be made or read.
    """
    pictures = GatheredPictures(folder, 2 * needed)
    if asked is not None:
        write_whole(folder / "asked.json", asked.model_dump_json().encode())
    offer = _read_offer(folder)
    due = max(1, needed - len(pictures)) if offer is None else needed
    return Lesson(
        product=product,
        folder=folder,
        pictures=pictures,
        asked=asked,
        needed=needed,
        due=due,
        pause=needed,
        offer=offer,
    )


def _read_offer(folder: Path) -> Offer | None:
    """The offer of an earlier run; None if there is none, or a part of it is missing."""
    try:
        offer = read_json(folder / "offer.json", Offer, MAX_JSON_BYTES)
    except ValueError as error:
        logger.warning("%s: the offer is not used: %s", folder, error)
        return None
    return offer if (folder / "offer.profile").is_file() else None
