from .health import PictureHealth as PictureHealth
from .health import unfit as unfit
from .reference import Reference as Reference
from .reference import load_reference as load_reference
from .reference import make_reference as make_reference
from .reference import save_reference as save_reference
