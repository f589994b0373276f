"""The composition root: builds the agent from its config, starts it, watches over it and stops it.

No work on pictures, results or messages belongs here. May import every room but `cli`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
