"""The complete detector (backbone and head), its checkpoint, and the authors' published checkpoints. Needs torch.

May import `heads`, `backbones`, `weights` and the top of core.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
