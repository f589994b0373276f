"""Writing a bundle and its model card, and rewriting one that exists."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
