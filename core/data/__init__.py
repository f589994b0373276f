"""Reads published data sets in their original folder layouts: samples, layouts, listings. Runs without torch.

May import `picture` and the top of core.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
