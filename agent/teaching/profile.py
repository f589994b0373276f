"""The profile: everything that was taught about a product, in one file of at most 20 MB.

The file is a .zip without compression: `profile.json`, the memories as .npy, and the kept pictures of good parts. Its
comment is the SHA-256 of all bytes before it, so a cut or changed byte anywhere is found.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import cv2
import numpy as np
from pydantic import AwareDatetime, Field, ValidationError

from zsad_agent.messages import BundleName
from zsad_agent.system import write_whole
from zsad_core.bundle import UNREADABLE_ZIP, ProductName, Sha256, open_zip, read_member, zip_members
from zsad_core.config import RecordModel
from zsad_core.errors import BundleError, ImageError, ProfileError
from zsad_core.facts import Unit
from zsad_core.memory import Spread
from zsad_core.part import PartModel
from zsad_core.picture import decode_image

FORMAT_VERSION: Final = 1  # a new optional key does not change it: readers ignore unknown keys
NEEDS_AGENT: Final = "0.2.0"  # the first agent that reads FORMAT_VERSION
MAX_BYTES = 20_000_000  # of the file
MAX_GOODS: Final = 60  # kept pictures
MAX_SIDE: Final = 1024  # of a kept picture, pixels
LEAST_SIDE: Final = 224  # the same; the networks need it
JPEG_QUALITY = 92
MAX_JSON_BYTES = 4_000_000
FACTS = "profile.json"
MAP_SIDE = 8192  # most pixels of a map
_DIGEST_BYTES = 64  # in hexadecimal, at the end of the file
_WAYS_OUT = (
    "If it is in use, take the version before it (zsad-agent profiles rollback) or teach the product again. If it is a "
    "copy, export it again"
)

Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(ge=-1e6, le=1e6)]


class Recall(RecordModel):
    """Bad parts that the threshold finds."""

    found: Count
    total: Annotated[int, Field(ge=1)]

    @property
    def share(self) -> float:
        return self.found / self.total


class Level(RecordModel):
    """The threshold when the first `scales` scales of the bundle are used, and what it promises."""

    scales: Annotated[int, Field(ge=1, le=64)]
    scale: Finite  # the threshold in z; see `zsad_core.memory.to_unit`
    false_reject_rate: Unit  # in the mean over all draws of good parts
    false_reject_rate_90: Unit  # holds with 90 % confidence
    needed: Count  # good parts for the requested rate
    recall: Recall | None = None  # None: no bad parts were given
    # limit of `ZMaps.difference` of a part that passes; None: the part is not the whole frame, or an earlier agent
    other_above: Finite | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ScaleMemory:
    """The memory of one scale."""

    vectors: np.ndarray  # float16 [M, C], unit length
    spread: Spread  # of the goods' leave-one-out distances


@dataclass(frozen=True, kw_only=True)
class KeptPicture:
    """A picture of a good part, for making the profile again with another bundle."""

    name: str  # of its file, for people
    jpeg: bytes

    @classmethod
    def of(cls, name: str, image_bgr: np.ndarray, *, max_side: int = MAX_SIDE) -> Self:
        """Encodes uint8 [H, W, 3], with at most `max_side` pixels a side."""
        scale = min(1.0, max_side / max(image_bgr.shape[:2]))
        if scale < 1:
            wh = [max(1, round(side * scale)) for side in image_bgr.shape[1::-1]]
            image_bgr = cv2.resize(image_bgr, wh, interpolation=cv2.INTER_AREA)
        done, encoded = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise ImageError(f"{name}: cannot be encoded as JPEG")
        return cls(name=name, jpeg=encoded.tobytes())

    def image(self) -> np.ndarray:
        """uint8 [H, W, 3].

        Raises:
            ImageError: it cannot be decoded.
        """
        return decode_image(np.frombuffer(self.jpeg, np.uint8), self.name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """Everything that was taught about one product."""

    product: str
    made_at: AwareDatetime
    bundle: BundleName  # whose networks made the memories
    part: PartModel
    scales: Mapping[str, ScaleMemory]  # by the name of the bundle's scale
    zero_shot: Spread  # of the goods' zero-shot logit maps
    zero_shot_weight: float  # of the zero-shot map in z, beside the mean of the scales
    background: float | None  # share of the median that is subtracted, in [0, 1]; None: an earlier agent made it
    foreign_above: float | None  # lower quartile of the first scale's map in z; above it: another product
    levels: tuple[Level, ...]  # by rising number of scales
    goods_scores: tuple[float, ...]  # in z at the highest level; of goods that the memory does not hold
    asked_rate: float  # of false rejects
    goods: tuple[KeptPicture, ...]  # at most MAX_GOODS
    apart: tuple[str, ...] = ()  # names of goods that were left out as outliers: the promise counts them as rejected
    kept: tuple[str, ...] = ()  # names of goods that a person added one by one: they are never left out
    ignored: np.ndarray | None = None  # bool [h, w], True where the camera's mask ignores the map
    rebuilt_from: BundleName | None = None  # made from the kept pictures of a profile of this bundle
    made_of: str | None = None  # hash of that profile
    sha256: str = ""  # of the file; empty before it is written
    path: Path | None = None  # where it was stored last; None: it was not

    def fits(self, bundle_sha256: str) -> bool:
        """Whether this agent can use it with this bundle. If not, its kept pictures can make it again."""
        return self.bundle.sha256 == bundle_sha256 and self.background is not None


class _ScaleFacts(RecordModel):
    vectors: Annotated[int, Field(ge=1, le=100_000)]
    width: Annotated[int, Field(ge=1, le=8192)]
    mean: Finite
    deviation: Annotated[float, Field(gt=0, le=1e6)]
    median: Finite | None = None


class _SpreadFacts(RecordModel):
    mean: Finite
    deviation: Annotated[float, Field(gt=0, le=1e6)]


class _Facts(RecordModel):
    """The content of profile.json."""

    format_version: Literal[1]
    needs_agent: str
    product: ProductName
    made_at: AwareDatetime
    bundle: BundleName
    part: PartModel
    scales: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")], _ScaleFacts], Field(min_length=1)]
    zero_shot: _SpreadFacts
    zero_shot_weight: Annotated[float, Field(ge=0, le=10)]
    background: Unit | None = None
    foreign_above: Finite | None
    levels: Annotated[tuple[Level, ...], Field(min_length=1)]
    goods_scores: tuple[Finite, ...]
    asked_rate: Annotated[float, Field(gt=0, lt=1)]
    goods: Annotated[tuple[str, ...], Field(max_length=MAX_GOODS)]
    apart: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    ignored_hw: tuple[Annotated[int, Field(ge=1, le=MAP_SIDE)], Annotated[int, Field(ge=1, le=MAP_SIDE)]] | None
    rebuilt_from: BundleName | None
    made_of: Sha256 | None = None
    members: dict[str, Sha256]


def write_profile(profile: Profile, path: Path) -> Profile:
    """Writes the file whole or not at all, and returns the profile as written.

    Raises:
        ProfileError: it cannot be written, or its memories alone are too large.
    """
    content = encode_profile(profile)
    try:
        write_whole(path, content)
    except OSError as error:
        raise ProfileError(f"{path}: the profile cannot be written: {error.strerror or error}") from error
    return decode_profile(content, str(path))


def read_profile(path: Path) -> Profile:
    """Reads and checks a profile, which may come from an untrusted source.

    Raises:
        ProfileError: the file cannot be read, is cut, changed, of a newer format, or no profile.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProfileError(f"{path}: the profile cannot be read: {error.strerror or error}. {_WAYS_OUT}") from error
    return decode_profile(content, str(path))


def encode_profile(profile: Profile) -> bytes:
    """The content of the file. Kept pictures are shrunk until it fits.

    Raises:
        ProfileError: it does not fit.
    """
    side = MAX_SIDE
    content = _zipped(profile, profile.goods)
    while len(content) > MAX_BYTES:
        side = int(side * 0.8)
        if side < LEAST_SIDE:
            raise ProfileError(f"the profile of {profile.product} has {len(content)} bytes, at most {MAX_BYTES} fit")
        goods = tuple(KeptPicture.of(good.name, good.image(), max_side=side) for good in profile.goods)
        content = _zipped(profile, goods)
    return content


def _zipped(profile: Profile, goods: tuple[KeptPicture, ...]) -> bytes:
    members = {f"{name}.npy": _npy(memory.vectors.astype("<f2")) for name, memory in profile.scales.items()}
    if profile.ignored is not None:
        members["ignored.npy"] = _npy(profile.ignored.astype(np.bool_))
    members |= {f"goods/{number:02}.jpg": good.jpeg for number, good in enumerate(goods)}
    facts = _Facts(
        format_version=FORMAT_VERSION,
        needs_agent=NEEDS_AGENT,
        product=profile.product,
        made_at=profile.made_at,
        bundle=profile.bundle,
        part=profile.part,
        scales={
            name: _ScaleFacts(
                vectors=memory.vectors.shape[0],
                width=memory.vectors.shape[1],
                mean=memory.spread.mean,
                deviation=memory.spread.deviation,
                median=memory.spread.median,
            )
            for name, memory in profile.scales.items()
        },
        zero_shot=_SpreadFacts(mean=profile.zero_shot.mean, deviation=profile.zero_shot.deviation),
        zero_shot_weight=profile.zero_shot_weight,
        background=profile.background,
        foreign_above=profile.foreign_above,
        levels=profile.levels,
        goods_scores=profile.goods_scores,
        asked_rate=profile.asked_rate,
        goods=tuple(good.name for good in goods),
        apart=profile.apart,
        kept=profile.kept,
        ignored_hw=None if profile.ignored is None else (profile.ignored.shape[0], profile.ignored.shape[1]),
        rebuilt_from=profile.rebuilt_from,
        made_of=profile.made_of,
        members={name: hashlib.sha256(content).hexdigest() for name, content in members.items()},
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {FACTS: facts.model_dump_json(indent=1).encode(), **members}.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # ZipInfo: without the time of day
        archive.comment = b"0" * _DIGEST_BYTES
    body = buffer.getvalue()[:-_DIGEST_BYTES]
    return body + hashlib.sha256(body).hexdigest().encode()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def decode_profile(content: bytes, source: str) -> Profile:
    """The profile in a file's content.

    Args:
        content: of the file.
        source: its name, for errors.

    Raises:
        ProfileError: as of `read_profile`.
    """
    if len(content) > MAX_BYTES:
        raise ProfileError(f"{source}: more than {MAX_BYTES} bytes, so it is no profile. {_WAYS_OUT}")
    if not content.startswith(b"PK"):
        raise ProfileError(f"{source}: is no profile of zsad-agent, or its start is damaged. {_WAYS_OUT}")
    digest = hashlib.sha256(content[:-_DIGEST_BYTES])
    if content[-_DIGEST_BYTES:] != digest.hexdigest().encode():
        raise ProfileError(f"{source}: the profile was cut or changed after it was written. {_WAYS_OUT}")
    digest.update(content[-_DIGEST_BYTES:])
    try:
        return _unpacked(content, source, digest.hexdigest())
    except (BundleError, *UNREADABLE_ZIP) as error:
        raise ProfileError(f"{source}: is no profile, or damaged: {error}. {_WAYS_OUT}") from error


def _unpacked(content: bytes, source: str, sha256: str) -> Profile:
    with open_zip(io.BytesIO(content)) as archive:
        infos = zip_members(archive, source)
        members = {name: read_member(archive, info, f"{source}/{name}", MAX_BYTES) for name, info in infos.items()}
    facts = _facts(members.pop(FACTS), source)
    found = {name: hashlib.sha256(member).hexdigest() for name, member in members.items()}
    if found != facts.members:
        raise ValueError("its members are not those that profile.json names")
    hw = facts.ignored_hw
    return Profile(
        product=facts.product,
        made_at=facts.made_at,
        bundle=facts.bundle,
        part=facts.part,
        scales={
            name: ScaleMemory(
                vectors=_array(members[f"{name}.npy"], (scale.vectors, scale.width), "<f2"),
                spread=Spread(mean=scale.mean, deviation=scale.deviation, median=scale.median),
            )
            for name, scale in facts.scales.items()
        },
        zero_shot=Spread(mean=facts.zero_shot.mean, deviation=facts.zero_shot.deviation),
        zero_shot_weight=facts.zero_shot_weight,
        background=facts.background,
        foreign_above=facts.foreign_above,
        levels=facts.levels,
        goods_scores=facts.goods_scores,
        asked_rate=facts.asked_rate,
        goods=tuple(
            KeptPicture(name=name, jpeg=members[f"goods/{number:02}.jpg"]) for number, name in enumerate(facts.goods)
        ),
        apart=facts.apart,
        kept=facts.kept,
        ignored=None if hw is None else _array(members["ignored.npy"], hw, "|b1"),
        rebuilt_from=facts.rebuilt_from,
        made_of=facts.made_of,
        sha256=sha256,
    )


def _facts(text: bytes, source: str) -> _Facts:
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"profile.json has {len(text)} bytes, at most {MAX_JSON_BYTES} are read")
    values = json.loads(text)
    version = values.get("format_version") if isinstance(values, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        needed = str(values.get("needs_agent", "a newer version"))[:20]
        raise ProfileError(
            f"{source}: profile format {version}, this agent reads {FORMAT_VERSION}. It needs zsad-agent {needed} or "
            "newer: update the agent, or teach the product again"
        )
    try:
        return _Facts.model_validate_json(text, strict=True)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:8])
        raise ValueError(f"profile.json: {faults}") from error


def _array(npy: bytes, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """The array of a .npy of this shape and type, which can be written to. NaN and infinity are refused."""
    stream = io.BytesIO(npy)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("a .npy of an unknown version")
    found = np.lib.format.read_array_header_1_0(stream)
    size = np.dtype(dtype).itemsize * shape[0] * shape[1]
    if found != (shape, False, np.dtype(dtype)) or len(npy) != stream.tell() + size:
        raise ValueError(f"an array {found[0]} of {found[2]}, expected {shape} of {dtype}")
    values = np.frombuffer(npy, dtype, offset=stream.tell()).reshape(shape)
    if not np.isfinite(values).all():
        raise ValueError("an array with values that are not finite")
    return values.copy()
