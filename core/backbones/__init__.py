"""The pretrained networks that turn an image into tokens. Needs torch.

May import `weights` and below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
