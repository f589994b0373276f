"""Sentences that describe a flawless and a damaged product, and the bank of their embeddings.

Source: AVA-DINO (arXiv 2605.12069) and AD-DINOv3 (arXiv 2509.14084), prompt ensemble: states x CLIP templates, as in
`NORMAL_STATES`, `ANOMALOUS_STATES`, `TEMPLATES`. The sentences depend on the product's name alone: they are encoded
once on the host, and the device reads numbers.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsad_core.errors import BundleError, ProductError

GENERIC_PRODUCT = "object"
NORMAL, ANOMALOUS = 0, 1  # index of the class axis wherever there are two

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


def sentences(product: str) -> tuple[list[str], list[str]]:
    """(normal sentences, anomalous sentences) of a product; underscores of a folder's name read as spaces."""
    name = product.replace("_", " ")
    normal = [template.format(state.format(name)) for state in NORMAL_STATES for template in TEMPLATES]
    anomalous = [template.format(state.format(name)) for state in ANOMALOUS_STATES for template in TEMPLATES]
    return normal, anomalous


@dataclass(frozen=True, kw_only=True)
class PromptBank:
    """Product name -> float32 array, one shape for all products.

    On the device the array is the graph's `prompt` input [2, 2, D]: first axis (routing anchor, matching vector),
    second axis (normal, anomalous). See `zsad_core.detector.DeviceGraph`.
    """

    embeddings: dict[str, np.ndarray]

    def __getitem__(self, product: str) -> np.ndarray:
        """The product's array.

        Raises:
            ProductError: the bank has none of that name.
        """
        if product not in self.embeddings:
            raise ProductError(
                f"product {product!r} is not in the bundle. It has: {', '.join(sorted(self.embeddings))}. "
                f"Use one of them, or leave the product out to inspect as {GENERIC_PRODUCT!r}."
            )
        return self.embeddings[product]

    @property
    def products(self) -> list[str]:
        return sorted(self.embeddings)

    def save(self, path: Path) -> None:
        np.savez(path, allow_pickle=False, **self.embeddings)

    @classmethod
    def load(cls, file: "Path | object", shape: tuple[int, ...]) -> "PromptBank":
        """Reads an npz file; every array must be float32 of `shape`, finite, and there must be a generic product.

        Raises:
            BundleError: it is not so.
        """
        try:
            with np.load(file, allow_pickle=False) as archive:  # type: ignore[arg-type]
                embeddings = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise BundleError(f"prompts.npz: cannot be read: {error}. Export the bundle again.") from error
        for name, array in embeddings.items():
            if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all():
                raise BundleError(
                    f"prompts.npz: product {name!r}: expected finite float32 {shape}, got {array.dtype} {array.shape}"
                )
        if GENERIC_PRODUCT not in embeddings:
            raise BundleError(f"prompts.npz: the generic product {GENERIC_PRODUCT!r} is missing")
        return cls(embeddings=embeddings)
