"""Text towers that embed the sentences about a product, and the text side of a head. Needs torch.

The sentences are in `bundle`. The device never imports this room.

May import `heads`, `weights` and below.
"""

from zsad_core.text.encoder import embed_products, load_text_encoder
from zsad_core.text.side import load_text_side, text_side_bytes

__all__ = [
    "embed_products",
    "load_text_encoder",
    "load_text_side",
    "text_side_bytes",
]
