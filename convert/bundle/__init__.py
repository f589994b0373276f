"""Writing a bundle and its model card, and rewriting one that exists."""

from zsad_convert.bundle.card import MODEL_CARD, model_card
from zsad_convert.bundle.rewrite import rewrite_bundle
from zsad_convert.bundle.writer import manifest_bytes, write_bundle

__all__ = [
    "MODEL_CARD",
    "manifest_bytes",
    "model_card",
    "rewrite_bundle",
    "write_bundle",
]
