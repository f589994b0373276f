"""Text encoders that embed the sentences about a product, and the text side of a head. Needs torch.

The sentences are in `bundle`. The device never imports this package.

May import `heads`, `weights` and below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
