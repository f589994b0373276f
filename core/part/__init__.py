"""Where the part is in a frame: learned from pictures of good parts, found again in each frame. Runs without torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
