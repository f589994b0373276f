"""The bundle: everything that a device needs to inspect parts, as a folder or a .zip of it.

The agent reads it here; `zsad_convert` writes it. The manifest holds a hash of every file. Every file is read into
memory as a whole, then checked, so a later change of the file on disk has no effect.
"""

import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from zsad_core.bundle.features import FeatureScale, FileName, Side, scales_fault
from zsad_core.bundle.files import BundleReader, MissingFileError, bundle_reader
from zsad_core.bundle.model_xml import check_model_xml
from zsad_core.bundle.prompt_bank import PromptBank, Wording
from zsad_core.bundle.proof import Calibration, Gate, Parity, Precision, Variant
from zsad_core.bundle.resize_rule import RESIZE_RULE, ResizeRule
from zsad_core.bundle.signature import MAX_SIGNATURE_BYTES, SIGNATURE, TrustedKey, check_signature
from zsad_core.config import RecordModel
from zsad_core.errors import BundleError
from zsad_core.facts import EvaluationRow, Licence, ScoreRule, Unit

FORMAT_VERSION: Final = 2  # a new optional key does not change it: readers ignore unknown keys
OLDEST_FORMAT = 1  # oldest version that is read, see `_from_format_1`
NEEDS_AGENT = "0.2.0"  # the first agent that reads FORMAT_VERSION
MANIFEST, MODEL_XML, MODEL_BIN, PROMPTS = "manifest.json", "model.xml", "model.bin", "prompts.npz"
PAYLOAD_FILES = (MODEL_XML, MODEL_BIN, PROMPTS)  # a method without text has no prompts
TEXT_SIDE = "text_side.safetensors"  # the host uses it to add products; see `zsad_core.text.side`
INT8_XML, INT8_BIN = "model_int8.xml", "model_int8.bin"  # the same model in int8, see `Manifest.variant`
VARIANT_FILES = (INT8_XML, INT8_BIN)
_KEPT_FILES = frozenset({*PAYLOAD_FILES, *VARIANT_FILES})  # in memory after the check; others are read when needed
MAX_FILE_BYTES = 2_000_000_000  # the IR of a ViT-L in FP32 is 1.3 GB
MAX_BUNDLE_BYTES = 2_500_000_000  # of all files together; they are all in memory during the check
MAX_MANIFEST_BYTES = 4_000_000
MAX_XML_BYTES = 64_000_000  # a ViT-L has 2 MB; the parser needs ten times as much memory
MAX_PROMPT_VALUES = 1_000_000  # of one product

_AGENT_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")  # of NEEDS_AGENT
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Arithmetic = Literal["fp", "int8"]  # of a bundle's models


class Threshold(RecordModel):
    value: Unit
    method: str  # how it was set, and on which images
    false_reject_rate: Unit | None = None  # share of good parts at or above it, on the same images


class Evaluation(RecordModel):
    protocol: str
    rows: tuple[EvaluationRow, ...]


class AddedProduct(RecordModel):
    """How a product was added to the bundle after its export."""

    made_by: str  # command
    wording: Wording


class SecondModel(RecordModel):
    """A second detector in the graph: the map is the mean of both maps' logits."""

    backbone: str  # as of `ModelFacts`, also the next two
    input_hw: tuple[Side, Side]
    taps: tuple[int, ...]


class ModelFacts(RecordModel):
    method: str  # e.g. "ava_dino"
    backbone: str  # timm name and initial weights
    text_encoder: str
    input_hw: tuple[Side, Side]
    colour_order: Literal["BGR"] = "BGR"
    taps: tuple[int, ...]  # 1-based block numbers
    map_hw: tuple[Side, Side]
    # shape of one product's prompt; None: the method uses no text and no products
    prompt_shape: tuple[Annotated[int, Field(gt=0)], ...] | None
    precision: Precision
    score: ScoreRule | None = None  # None: the score is not computed from the output map
    second: SecondModel | None = None

    @model_validator(mode="after")
    def _prompt_is_bounded(self) -> Self:
        if self.prompt_shape is not None and math.prod(self.prompt_shape) > MAX_PROMPT_VALUES:
            raise ValueError(f"prompt_shape must hold at most {MAX_PROMPT_VALUES} values")
        return self


class BuiltWith(RecordModel):
    """Versions of the programs that exported the models; None: unknown or not installed."""

    openvino: str | None = None
    torch: str | None = None
    timm: str | None = None
    zsad_agent: str | None = None


class Manifest(RecordModel):
    """The content of a bundle's manifest.json in this format; `parse_manifest` converts older formats to it."""

    format_version: Literal[2]
    # the oldest agent that reads this format; an older agent names it in its error
    needs_agent: Annotated[str, Field(pattern=f"^{_AGENT_VERSION.pattern}$")] = NEEDS_AGENT
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
    resize: ResizeRule  # how an image is scaled to the model's input
    built_at: date | None = None  # UTC date of the export; None, here and in the next key: unknown
    built_with: BuiltWith | None = None
    files: dict[FileName, Sha256]
    added_products: dict[str, AddedProduct] = Field(default={})  # some of `products`
    gate: Gate | Literal["left out"] | None = None  # of the main model, as the next two keys; see `Variant`
    calibration: Calibration | None = None
    accepted_loss: tuple[str, ...] = ()
    # The same model in int8 beside a float model: each machine runs the faster one. All other keys, including the
    # threshold, apply to both. The variant's parity and gate show that both give the same results.
    variant: Variant | None = None
    # Level n of teach-in uses the first n scales. None: the bundle cannot be taught.
    features: Annotated[tuple[FeatureScale, ...], Field(min_length=1, max_length=16)] | None = None

    @model_validator(mode="after")
    def _scales_fit(self) -> Self:
        if fault := scales_fault(self.features or (), self.model.input_hw):
            raise ValueError(f"features: {fault}")
        return self

    @model_validator(mode="after")
    def _variant_is_another(self) -> Self:
        if self.variant is not None and (self.variant.precision, self.model.precision == "int8") != ("int8", False):
            raise ValueError(
                f"the variant is {self.variant.precision} beside a model in {self.model.precision}: only int8 beside "
                "fp32 or fp16 is supported"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A checked bundle: format, hashes, prompt shapes, and the signature if trusted keys were given."""

    path: Path
    manifest: Manifest
    prompt_bank: PromptBank | None  # None: the method uses no text, so all products are inspected in the same way
    model_xml: bytes  # empty after compilation, as is `model_bin`
    model_bin: bytes
    variant_xml: bytes  # of the int8 variant; empty after compilation, or without a variant
    variant_bin: bytes
    sha256: str  # of manifest.json, which holds the hashes of all other files
    signed_by: str | None = None  # id of the trusted key; None: no trusted keys were given

    def prompt(self, product: str) -> np.ndarray | None:
        """The graph's `prompt` for a product; always None if the method uses no text.

        Raises:
            ProductError: there is no such product.
        """
        return None if self.prompt_bank is None else self.prompt_bank[product]

    @property
    def arithmetics(self) -> tuple[Arithmetic, ...]:
        """The arithmetic of each model in the bundle, the main model first."""
        main: Arithmetic = "int8" if self.manifest.model.precision == "int8" else "fp"
        return (main,) if self.manifest.variant is None else (main, "int8")

    def computing_in(self, arithmetic: Arithmetic) -> Self:
        """The bundle with only its model of this arithmetic, one of `arithmetics`."""
        xml, weights = self.model_xml, self.model_bin
        if arithmetic != self.arithmetics[0]:
            xml, weights = self.variant_xml, self.variant_bin
        return replace(self, model_xml=xml, model_bin=weights, variant_xml=b"", variant_bin=b"")

    def feature_xml(self, scale: FeatureScale) -> bytes:
        """The graph of a scale, read and checked again: `load_bundle` does not keep it.

        Raises:
            BundleError: it cannot be read, or was changed since the bundle was loaded.
        """
        text = self._read_again(scale.file, MAX_XML_BYTES)
        check_model_xml(text, f"{self.path}/{scale.file}")
        return text

    def feature_weights(self) -> bytes:
        """The constants of all feature networks, read and checked again.

        Raises:
            BundleError: as of `feature_xml`.
        """
        return self._read_again(MODEL_BIN, MAX_FILE_BYTES)

    def _read_again(self, name: str, max_bytes: int) -> bytes:
        content = bundle_reader(self.path, MANIFEST)(name, max_bytes)
        _check_hash(content, self.manifest.files[name], f"{self.path}/{name}")
        return content

    def without_model(self) -> Self:
        """The bundle without graphs and weights: a compiled model has its own copy."""
        return replace(self, model_xml=b"", model_bin=b"", variant_xml=b"", variant_bin=b"")


def load_bundle(path: Path, trusted_keys: Sequence[TrustedKey] = ()) -> Bundle:
    """Reads and checks a bundle folder or .zip, which may come from an untrusted source.

    Args:
        path: folder or .zip. Files that are not in the manifest are never read.
        trusted_keys: one of these must have signed the bundle; the signature is checked before anything is parsed.
            Empty: signed and unsigned bundles are both accepted.

    Raises:
        BundleError: missing, not a bundle, not signed by a trusted key, another format version, a missing, changed or
            truncated file, or prompts that do not fit the model. The text names the file, what was expected and found.
    """
    read = bundle_reader(path, MANIFEST)
    signature = _read_signature(read, path) if trusted_keys else None
    manifest_bytes = read(MANIFEST, MAX_MANIFEST_BYTES)
    signed_by = None
    if signature is not None:
        signed_by = check_signature(manifest_bytes, signature, trusted_keys, str(path))
    manifest = parse_manifest(manifest_bytes, f"{path}/{MANIFEST}")
    contents = _read_files(read, path, manifest)
    for name in (MODEL_XML, INT8_XML):
        if name in contents:
            check_model_xml(contents[name], f"{path}/{name}")
    return Bundle(
        path=path,
        manifest=manifest,
        prompt_bank=_prompt_bank(path, manifest, contents),
        model_xml=contents[MODEL_XML],
        model_bin=contents[MODEL_BIN],
        variant_xml=contents.get(INT8_XML, b""),
        variant_bin=contents.get(INT8_BIN, b""),
        sha256=hashlib.sha256(manifest_bytes).hexdigest(),
        signed_by=signed_by,
    )


def is_signed(path: Path) -> bool:
    """Whether a bundle has a signature file. The signature is not checked.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        bundle_reader(path, MANIFEST)(SIGNATURE, MAX_SIGNATURE_BYTES)
    except MissingFileError:
        return False
    return True


def read_manifest(path: Path) -> bytes:
    """The bytes of a bundle's manifest, unchecked.

    Raises:
        BundleError: the file cannot be read.
    """
    return bundle_reader(path, MANIFEST)(MANIFEST, MAX_MANIFEST_BYTES)


def _read_signature(read: BundleReader, path: Path) -> bytes:
    try:
        return read(SIGNATURE, MAX_SIGNATURE_BYTES)
    except MissingFileError as error:
        raise BundleError(
            f"{path}: not signed, and only bundles signed with a key of inference.trusted_keys are accepted. Sign it "
            "with zsad-convert sign."
        ) from error


def _read_files(read: BundleReader, path: Path, manifest: Manifest) -> dict[str, bytes]:
    """Checks the hash of every file of the manifest; gives name -> content of `_KEPT_FILES`."""
    needs_text = manifest.model.prompt_shape is not None
    needed = [name for name in PAYLOAD_FILES if needs_text or name != PROMPTS]
    needed += VARIANT_FILES if manifest.variant else ()
    needed += dict.fromkeys(scale.file for scale in manifest.features or ())
    missing = [name for name in needed if name not in manifest.files]
    if missing:
        raise BundleError(f"{path}/{MANIFEST}: files: no hash for {', '.join(missing)}. Export the bundle again.")
    if manifest.variant is None and (stray := [name for name in VARIANT_FILES if name in manifest.files]):
        raise BundleError(f"{path}/{MANIFEST}: files: {stray[0]!r} is listed, but there is no variant")
    contents: dict[str, bytes] = {}
    left = MAX_BUNDLE_BYTES
    for name, expected in manifest.files.items():
        content = read(name, min(left, MAX_XML_BYTES if name in (MODEL_XML, INT8_XML) else MAX_FILE_BYTES))
        left -= len(content)
        _check_hash(content, expected, f"{path}/{name}")
        if name in _KEPT_FILES:
            contents[name] = content
    return contents


def _check_hash(content: bytes, expected: str, source: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise BundleError(
            f"{source}: sha256 is {found[:12]}…, the manifest says {expected[:12]}…: the file is truncated or was "
            "changed. Copy the bundle again."
        )


def _prompt_bank(path: Path, manifest: Manifest, contents: dict[str, bytes]) -> PromptBank | None:
    shape = manifest.model.prompt_shape
    if shape is None:
        if manifest.products or PROMPTS in contents:
            raise BundleError(f"{path}/{MANIFEST}: model.prompt_shape is null, but there are products or {PROMPTS}")
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


def parse_manifest(text: bytes, source: str) -> Manifest:
    """The manifest in `text`. Its format version is checked first; unknown keys are ignored.

    Raises:
        BundleError: not JSON, an unknown format version (the text names the agent version that reads it, if the
            manifest has it), or a key that is missing, of the wrong type or out of range.
    """
    try:
        values = json.loads(text)
        found = values["format_version"]
        if found == 1 and type(found) is int:
            text = json.dumps(_from_format_1(values)).encode()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{source}: not a bundle manifest: {type(error).__name__}: {error}") from error
    if type(found) is not int or not OLDEST_FORMAT <= found <= FORMAT_VERSION:
        raise BundleError(f"{source}: {_refused_format(found, values.get('needs_agent'))}")
    try:
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise BundleError(f"{source}: {faults}") from error


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """The manifest in this format. Format 1 has no `resize`: all its readers use `RESIZE_RULE`."""
    return values | {"format_version": FORMAT_VERSION, "resize": RESIZE_RULE.model_dump(mode="json")}


def _refused_format(found: Any, needs_agent: Any) -> str:
    said = f"bundle format {str(found)[:40]!r}" if type(found) is not int else f"bundle format {found}"
    said += f", this agent ({installed_version('zsad-agent') or 'version unknown'}) reads "
    said += f"{OLDEST_FORMAT} to {FORMAT_VERSION}. "
    if type(found) is not int or found < OLDEST_FORMAT:
        return said + "Re-export it with zsad-convert."
    if isinstance(needs_agent, str) and _AGENT_VERSION.fullmatch(needs_agent):
        return said + f"It needs zsad-agent {needs_agent} or newer: update the agent."
    return said + "It needs a newer zsad-agent: update the agent."


def installed_version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # this import is slower than reading a manifest

    try:
        return version(package)
    except PackageNotFoundError:
        return None
