from .outcome import LeftOut as LeftOut
from .outcome import Recall as Recall
from .outcome import Taught as Taught
