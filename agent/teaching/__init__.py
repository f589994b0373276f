"""What was taught about products: learning from good parts, the profile file, its store, and predicting with it.

Capturing the pictures belongs in `capture` and `tools`. May import `config`, `messages`, `model`, `system`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
