"""From a score to a verdict, and the metrics by which detectors are compared. Runs without torch.

May import `bundle` and the top of core.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
