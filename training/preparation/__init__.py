"""Turns the authors' downloads of data sets into the MVTec layout: reading, rules of each set, writing whole or not.

Imports no other room of training.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
