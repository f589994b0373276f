"""The settings of a run: their models, and loading from recipes and flags.

Imports no other room of training.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
