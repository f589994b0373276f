from .decision import Decider as Decider
from .decision import instant_verdict as instant_verdict
from .masked import masked_score as masked_score
from .metrics import Curve as Curve
from .metrics import curve_of_scores as curve_of_scores
from .pixel_metrics import AUPRO_MAX_FPR as AUPRO_MAX_FPR
from .pixel_metrics import PixelMetrics as PixelMetrics
