"""Turns scores into verdicts, and computes the metrics that compare detectors. Runs without torch.

May import `bundle` and the top of core.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
