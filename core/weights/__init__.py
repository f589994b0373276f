"""Weights: files, checks, hash, download, licences. Needs torch, except for `licences`.

May import `bundle` and the top of core.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
