"""Cameras that OpenCV does not read: GenICam cameras through aravis, motion JPEG and single pictures over HTTP.

`sources` makes sources of them. Imports no other room.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
