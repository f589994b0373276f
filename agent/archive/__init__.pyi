from .listing import list_pictures as list_pictures
from .main import main as main
from .parts import PartsFolder as PartsFolder
