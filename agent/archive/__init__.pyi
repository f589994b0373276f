from .listing import list_pictures as list_pictures
from .main import main as main
from .parts import Done as Done
from .parts import PartsFolder as PartsFolder
from .parts import split as split
from .scoring import score_parts as score_parts
