"""The sources of pictures: cameras, streams, files, watched folders, and the process that reads a live source.

`capture` decides when a picture is taken. May import `config`, `system`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
