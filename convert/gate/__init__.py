"""The export gate: checks that a bundle must pass before it is written, and the checks of `verify`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
