from .line import LineLearner as LineLearner
from .line import Teach as Teach
from .offer import Offer as Offer
from .pictures import GatheredPictures as GatheredPictures
from .stream import learn_from_stream as learn_from_stream
