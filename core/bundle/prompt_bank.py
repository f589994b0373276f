"""Sentences that describe a flawless and a damaged product, and the bank of their embeddings.

Source: AVA-DINO (arXiv 2605.12069) and AD-DINOv3 (arXiv 2509.14084), prompt ensemble: states x CLIP templates, as in
`NORMAL_STATES`, `ANOMALOUS_STATES`, `TEMPLATES`. The sentences depend only on the product's name. The host encodes them
once; the device reads the numbers.
"""

import contextlib
import io
import math
import tokenize
import unicodedata
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import numpy as np
from pydantic import AfterValidator, Field

from zsad_core.bundle.files import UNREADABLE_ZIP, open_zip, read_member, zip_members
from zsad_core.config import RecordModel
from zsad_core.errors import BundleError, ProductError

GENERIC_PRODUCT = "object"
NORMAL, ANOMALOUS = 0, 1  # index on every class axis

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ANOMALOUS_STATES = ("damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage")
TEMPLATES = (
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a photo of my {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a photo of one {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "a low resolution photo of a {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a photo of the small {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "a dark photo of a {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)


_MAX_HEADER_BYTES = 4096  # of an npy file; the header of a float array has 128
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
MAX_NAME_LENGTH = 80  # characters
_JOINERS = "\u200c\u200d"  # Python says they are not printable, but Persian and Hindi words need them


def product_name(text: str) -> str:
    """The product's name in Unicode's composed form (NFC), as bundles store it.

    Raises:
        ValueError: the name cannot be used in prompts.npz, in a message or on a command line.
    """
    name = _printable(text)
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"{name[:20]!r}… has {len(name)} characters, a product's name has at most {MAX_NAME_LENGTH}")
    if name.startswith(("-", ".")) or "/" in name or "\\" in name or ".." in name or name.endswith(".npy"):
        raise ValueError(
            f"{name!r}: a product's name holds no slash, backslash or '..', starts with no dot or hyphen, "
            "and does not end in .npy"
        )
    return name


def _printable(text: str) -> str:
    name = unicodedata.normalize("NFC", text)
    odd = [character for character in name if not character.isprintable() and character not in _JOINERS]
    if odd:
        raise ValueError(f"{name!r} holds {odd[0]!r}, which is not printable")
    if not name or name != name.strip():
        raise ValueError(f"{name!r} is empty, or has a space at its start or end")
    return name


def _pattern(text: str) -> str:
    pattern = _printable(text)
    if "{}" not in pattern or pattern.count("{") != 1 or pattern.count("}") != 1:
        raise ValueError(f"{pattern!r} must hold {{}} exactly once, where the product's name goes, and no other brace")
    return pattern


ProductName = Annotated[str, AfterValidator(product_name)]
Word = Annotated[str, AfterValidator(_printable)]
Patterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], Field(min_length=1)]


class Wording(RecordModel):
    """How the sentences about one product are built: every name in every state in every template."""

    names: Annotated[tuple[Word, ...], Field(min_length=1)] | None = None  # None: the product's own name
    normal_states: Patterns | None = None  # None, here and below: as in the papers
    anomalous_states: Patterns | None = None
    templates: Patterns | None = None


PAPERS_WORDING = Wording()


def sentences(product: str, wording: Wording = PAPERS_WORDING) -> tuple[list[str], list[str]]:
    """(normal sentences, anomalous sentences) of a product; underscores in its name become spaces."""
    names = wording.names or (product.replace("_", " "),)

    def build(states: tuple[str, ...]) -> list[str]:
        templates = wording.templates or TEMPLATES
        return [template.format(state.format(name)) for name in names for state in states for template in templates]

    return build(wording.normal_states or NORMAL_STATES), build(wording.anomalous_states or ANOMALOUS_STATES)


@dataclass(frozen=True, kw_only=True)
class PromptBank:
    """Product name -> float32 array, one shape for all products.

    On the device the array is the graph's `prompt` input [K, 2, M]: K pairs of vectors (normal, anomalous). The last
    pair is matched with patches. See `zsad_core.heads.matching.MatchingHead.prompt_vectors`.
    """

    embeddings: dict[str, np.ndarray]

    def __getitem__(self, product: str) -> np.ndarray:
        """The product's array. Composed and decomposed accents in the name are equal.

        Raises:
            ProductError: the bank has no product of this name.
        """
        if product not in self.embeddings:
            product = unicodedata.normalize("NFC", product)
        if product not in self.embeddings:
            raise ProductError(
                f"product {product!r} is not in the bundle. It has: {', '.join(sorted(self.embeddings))}. "
                f"Use one of them, or leave the product out to inspect as {GENERIC_PRODUCT!r}."
            )
        return self.embeddings[product]

    @property
    def products(self) -> list[str]:
        return sorted(self.embeddings)

    def save(self, file: "Path | IO[bytes]") -> None:
        """Writes an npz file. `np.savez` is not used: a product could not have the name of its argument `file`."""
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in self.embeddings.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    @classmethod
    def load(cls, file: "Path | IO[bytes]", shape: tuple[int, ...]) -> "PromptBank":
        """Reads an npz file. Every array must be finite float32 of `shape`, and the generic product must be there.

        `np.load` is not used: it allocates memory for the shape in a header before it checks the data.

        Raises:
            BundleError: the file cannot be read or breaks one of these rules.
        """
        embeddings: dict[str, np.ndarray] = {}
        try:
            with contextlib.ExitStack() as stack:
                opened = stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
                archive = stack.enter_context(open_zip(opened))
                for member, info in zip_members(archive, "prompts.npz", names_are_paths=False).items():
                    name = member.removesuffix(".npy")
                    if name in embeddings:
                        raise BundleError(f"prompts.npz: product {name!r} occurs twice. Export the bundle again.")
                    content = read_member(archive, info, f"prompts.npz: product {name!r}", _most_bytes(shape))
                    embeddings[name] = _read_array(content, name, shape)
        except UNREADABLE_ZIP as error:
            raise BundleError(f"prompts.npz: cannot be read: {error}. Export the bundle again.") from error
        if GENERIC_PRODUCT not in embeddings:
            raise BundleError(f"prompts.npz: the generic product {GENERIC_PRODUCT!r} is missing")
        return cls(embeddings=embeddings)


def _most_bytes(shape: tuple[int, ...]) -> int:
    return 4 * math.prod(shape) + _MAX_HEADER_BYTES


def _read_array(content: bytes, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array in an npy file. Its header is checked before memory is allocated."""
    file = io.BytesIO(content)
    try:
        read_header = _HEADERS.get(np.lib.format.read_magic(file))
        if read_header is None:
            raise ValueError("unknown version of npy")
        found_shape, fortran_order, dtype = read_header(file, max_header_size=_MAX_HEADER_BYTES)
    except (ValueError, SyntaxError, TypeError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise BundleError(
            f"prompts.npz: product {name!r}: cannot be read: {error}. Export the bundle again."
        ) from error
    values = content[file.tell() :]
    if dtype != np.float32 or found_shape != shape or len(values) != 4 * math.prod(shape):
        raise BundleError(
            f"prompts.npz: product {name!r}: expected finite float32 {shape}, got {dtype} {found_shape} "
            f"in {len(values)} bytes"
        )
    array = np.frombuffer(values, dtype).reshape(shape, order="F" if fortran_order else "C")
    if not np.isfinite(array).all():
        raise BundleError(f"prompts.npz: product {name!r}: expected finite float32 {shape}, got NaN or infinity")
    return array
