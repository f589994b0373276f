"""Weight files: reading, checking, where they come from, their licences. Needs torch but for `licences`.

May import `bundle` and the top of core.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
