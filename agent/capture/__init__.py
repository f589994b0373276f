"""Takes pictures from a source when they are due or triggered, and reports a lost camera.

`sources` opens and decodes. May import `sources`, `picture_health`, `config`, `system`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
