from .card import MODEL_CARD as MODEL_CARD
from .card import model_card as model_card
from .ir_files import serialise as serialise
from .rewrite import rewrite_bundle as rewrite_bundle
from .writer import check_out as check_out
from .writer import manifest_bytes as manifest_bytes
from .writer import write_bundle as write_bundle
