from .encoder import embed_products as embed_products
from .encoder import load_text_encoder as load_text_encoder
from .side import load_text_side as load_text_side
from .side import text_side_bytes as text_side_bytes
