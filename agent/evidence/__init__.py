"""The evidence folder on disk: pictures and overlays of rejects, and its limits.

Pictures that are sent with a result belong in `spool`. May import `messages`, `config`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
