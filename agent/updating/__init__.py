"""Updates that a command names by URL and hash: the download, and the record of how far an update has come.

What is done with the file, and when, is decided in `control`. May import `teaching`, `model`, `messages` and below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
