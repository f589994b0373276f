"""The bundle: everything that a device needs to inspect, in a folder or one .zip of it.

Read here by the agent, written by `zsad_convert`. Every file is hashed in the manifest and read whole into memory, so
that what was checked is what runs.
"""

import hashlib
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from zsad_core.config import StrictModel
from zsad_core.errors import BundleError
from zsad_core.prompts import PromptBank, Wording

FORMAT_VERSION = 1
MANIFEST, MODEL_XML, MODEL_BIN, PROMPTS = "manifest.json", "model.xml", "model.bin", "prompts.npz"
PAYLOAD_FILES = (MODEL_XML, MODEL_BIN, PROMPTS)  # a method without text has no prompts
TEXT_SIDE = "text_side.safetensors"  # for the host, to add products; see `zsad_core.text_side`
OPTIONAL_FILES = ("LICENSE.txt", TEXT_SIDE)
MAX_FILE_BYTES = 2_000_000_000  # the IR of a ViT-L in FP32 is 1.3 GB
MAX_MANIFEST_BYTES = 4_000_000

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Unit = Annotated[float, Field(ge=0, le=1)]


class Threshold(StrictModel):
    value: Unit
    method: str  # how it was set, on what
    false_reject_rate: Unit | None = None  # share of good parts above it, on the pictures it was set on


class Parity(StrictModel):
    """Largest differences between the torch model and the IR, over the pictures of `images`."""

    images: Annotated[int, Field(ge=1)]
    source: str
    max_map_difference: Annotated[float, Field(ge=0)]
    max_score_difference: Annotated[float, Field(ge=0)]
    map_tolerance: Annotated[float, Field(gt=0)]
    score_tolerance: Annotated[float, Field(gt=0)]


class EvaluationRow(StrictModel):
    dataset: str
    seen_in_training: bool
    images: int
    image_auroc: float | None
    image_ap: float | None
    image_f1_max: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    pixel_f1_max: float | None
    aupro: float | None
    recall: float | None  # share of defective pictures at or above the threshold set on validation
    false_reject_rate: float | None  # share of good pictures there


class Evaluation(StrictModel):
    protocol: str
    rows: tuple[EvaluationRow, ...]


class Licence(StrictModel):
    what: str
    licence: str
    source: str


class AddedProduct(StrictModel):
    """How a product came into the bundle after its export."""

    made_by: str  # command
    wording: Wording


class ScoreRule(StrictModel):
    """How the score comes from the map: the mean of the highest values, as `zsad_core.scoring.ScoreConfig` has it."""

    top_fraction: Unit
    pool: Annotated[int, Field(ge=1, le=64)]  # side of the blocks that are averaged first, map pixels


class ModelFacts(StrictModel):
    method: str  # e.g. "ava_dino"
    backbone: str  # timm name and the weights it started from
    text_encoder: str
    input_hw: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
    colour_order: Literal["BGR"] = "BGR"
    taps: tuple[int, ...]  # 1-based block numbers
    map_hw: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
    prompt_shape: tuple[int, ...] | None  # of one product's prompt; None: the method needs no text, nor products
    precision: Literal["fp32", "fp16"]
    score: ScoreRule | None = None  # None: the score does not come from the map that is given out


class Manifest(StrictModel):
    format_version: int
    name: str
    version: str
    model: ModelFacts
    products: tuple[str, ...]
    threshold: Threshold
    region_level: Unit  # map value from which a pixel belongs to a region
    evaluation: Evaluation | None
    parity: Parity
    made_by: str  # command and seed
    licences: tuple[Licence, ...]
    files: dict[str, Sha256]
    added_products: dict[str, AddedProduct] = Field(default={})  # some of `products`


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that has been checked: format, hashes, prompt shapes."""

    path: Path
    manifest: Manifest
    prompt_bank: PromptBank | None  # None: the method needs no text, and any product is inspected alike
    model_xml: bytes
    model_bin: bytes
    sha256: str  # of manifest.json, which holds the hashes of all else

    def prompt(self, product: str) -> np.ndarray | None:
        """The graph's `prompt` for a product; None where the method needs no text, whatever the product.

        Raises:
            ProductError: there is no such product.
        """
        return None if self.prompt_bank is None else self.prompt_bank[product]


def load_bundle(path: Path) -> Bundle:
    """Reads and checks a bundle folder or .zip.

    Raises:
        BundleError: missing, not a bundle, another format version, a file missing, altered or cut, or prompts that do
            not fit the model. Text says which file, what was expected and found.
    """
    read = bundle_reader(path)
    manifest_bytes = read(MANIFEST, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(manifest_bytes, f"{path}/{MANIFEST}")
    needs_text = manifest.model.prompt_shape is not None
    missing = [name for name in PAYLOAD_FILES if name not in manifest.files and (needs_text or name != PROMPTS)]
    if missing:
        raise BundleError(f"{path}/{MANIFEST}: files: no hash for {', '.join(missing)}. Export the bundle again.")
    contents = {}
    for name, expected in manifest.files.items():
        if name not in PAYLOAD_FILES + OPTIONAL_FILES:
            raise BundleError(f"{path}/{MANIFEST}: files: {name!r} is not a file of format {FORMAT_VERSION}")
        contents[name] = read(name, MAX_FILE_BYTES)
        found = hashlib.sha256(contents[name]).hexdigest()
        if found != expected:
            raise BundleError(
                f"{path}/{name}: sha256 is {found[:12]}…, the manifest says {expected[:12]}…: the file is truncated or "
                "was changed. Copy the bundle again."
            )
    return Bundle(
        path=path,
        manifest=manifest,
        prompt_bank=_prompt_bank(path, manifest, contents),
        model_xml=contents[MODEL_XML],
        model_bin=contents[MODEL_BIN],
        sha256=hashlib.sha256(manifest_bytes).hexdigest(),
    )


def _prompt_bank(path: Path, manifest: Manifest, contents: dict[str, bytes]) -> PromptBank | None:
    shape = manifest.model.prompt_shape
    if shape is None:
        if manifest.products or PROMPTS in contents:
            raise BundleError(f"{path}/{MANIFEST}: model.prompt_shape is null, yet there are products or {PROMPTS}")
        return None
    try:
        bank = PromptBank.load(io.BytesIO(contents[PROMPTS]), shape)
    except BundleError as error:
        raise BundleError(f"{path}/{error}") from error
    if set(bank.products) != set(manifest.products):
        raise BundleError(
            f"{path}: products differ: the manifest has {sorted(manifest.products)}, {PROMPTS} has {bank.products}"
        )
    return bank


def bundle_reader(path: Path) -> Callable[[str, int], bytes]:
    """Reads a file of a bundle folder or .zip by name, up to a number of bytes; checks no hash.

    Raises:
        BundleError: there is no such bundle; when called, that the file is missing, too large or unreadable.
    """
    if path.is_dir():
        return _FolderReader(path)
    if path.is_file():
        return _ZipReader(path)
    raise BundleError(f"{path}: no such bundle. Name a bundle folder or a .zip of one with --bundle.")


def parse_manifest(text: bytes, source: str) -> Manifest:
    """The manifest in `text`; its format version is judged before anything else.

    Raises:
        BundleError: no JSON, another format version, or a key that is missing, unknown or out of range.
    """
    try:
        values = json.loads(text)
        found = values["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{source}: not a bundle manifest: {type(error).__name__}: {error}") from error
    if found != FORMAT_VERSION:
        raise BundleError(
            f"{source}: bundle format {found!r}, this agent reads {FORMAT_VERSION}. Re-export it with zsad-convert."
        )
    try:
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise BundleError(f"{source}: {faults}") from error


class _FolderReader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, name: str, max_bytes: int) -> bytes:
        file = self._path / name
        try:
            size = file.stat().st_size
            if size > max_bytes:
                raise BundleError(f"{file}: {size} bytes, at most {max_bytes} are read")
            return file.read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise BundleError(f"{file}: cannot be read: {reason}. Is {self._path} a bundle?") from error


class _ZipReader:
    """Reads members into memory; nothing is unpacked to disk, so a member's path can point nowhere.

    They lie at the top, or in one folder: zipping the files and zipping the folder around them are both common.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, name: str, max_bytes: int) -> bytes:
        try:
            with zipfile.ZipFile(self._path) as archive:
                folders = [member[: -len(MANIFEST)] for member in archive.namelist() if _is_manifest(member)]
                info = archive.getinfo(f"{folders[0] if len(folders) == 1 else ''}{name}")
                if info.file_size > max_bytes:
                    raise BundleError(f"{self._path}/{name}: {info.file_size} bytes, at most {max_bytes} are read")
                return archive.read(info)  # stops at file_size whatever the stream would inflate to
        except KeyError as error:
            raise BundleError(
                f"{self._path}: no {name} at its top or in its one folder. Zip one bundle's files or folder."
            ) from error
        except (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, EOFError, ValueError) as error:
            raise BundleError(f"{self._path}: not a bundle folder nor a readable .zip of one: {error}") from error


def _is_manifest(member: str) -> bool:
    return member == MANIFEST or (member.count("/") == 1 and member.endswith(f"/{MANIFEST}"))
