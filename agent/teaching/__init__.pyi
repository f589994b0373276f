from .outcome import LeftOut as LeftOut
from .outcome import Taught as Taught
