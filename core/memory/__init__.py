"""The arithmetic of a memory of good parts: coreset, scales of maps, scores, promised rates. Runs without torch.

May import the top of core.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
