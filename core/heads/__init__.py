"""The trained part of each method: matching, AVA-DINO, AD-DINOv3, VisualAD, decoder; losses and scoring. Needs torch.

May import `backbones`, `bundle` and the top of core.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
