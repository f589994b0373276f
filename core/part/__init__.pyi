from .located import Located as Located
from .located import NoPartError as NoPartError
from .located import PartError as PartError
from .located import Pose as Pose
from .model import PartModel as PartModel
from .teaching import part_models as part_models
