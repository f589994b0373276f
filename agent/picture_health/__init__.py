"""Whether a picture can be inspected: not dark, bright or plain, and if live not frozen, blurred, moved, another scene.

The model finds defects of parts. May import `config`, `system`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
