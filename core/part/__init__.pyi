from .located import Located as Located
from .located import PartError as PartError
from .located import Pose as Pose
from .model import PartModel as PartModel
from .model import TaughtPart as TaughtPart
from .model import TaughtView as TaughtView
from .teaching import part_models as part_models
