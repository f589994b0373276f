"""Whether a live picture can be inspected: it must not be dark, bright, frozen, blurred, moved or of another scene.

The model finds defects of parts. May import `config`, `system`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
