"""Finds cameras, says who uses GPIO lines, and tries a camera, source or broker before it is in the config.

May import `sources` and `mqtt`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
