"""Results on disk until the broker has them: one SQLite file, its repair, and its limits.

Sending belongs in `mqtt`. May import `system`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
