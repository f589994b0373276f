"""Whether a live picture can be judged: dark, bright, frozen, blurred, moved, another scene.

Defects of parts belong to the model. May import `config`, `system`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
