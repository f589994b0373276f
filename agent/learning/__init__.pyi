from .line import LineLearner as LineLearner
from .line import Teach as Teach
from .offer import Offer as Offer
from .pictures import GatheredPictures as GatheredPictures
