"""Where pictures come from: cameras, streams, files, watched folders, and the process that reads a live one.

When a picture is taken belongs in `capture`. May import `config`, `system`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
