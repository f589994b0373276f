"""From a score to a verdict, and the metrics by which detectors are compared. Runs without torch.

May import `bundle` and the top of core.
"""

from zsad_core.judging.decision import Decider, instant_verdict
from zsad_core.judging.masked import masked_score
from zsad_core.judging.metrics import Curve, curve_of_scores
from zsad_core.judging.pixel_metrics import AUPRO_MAX_FPR, PixelMetrics

__all__ = [
    "AUPRO_MAX_FPR",
    "Curve",
    "Decider",
    "PixelMetrics",
    "curve_of_scores",
    "instant_verdict",
    "masked_score",
]
