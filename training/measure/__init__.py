"""Evaluates a detector: predictions, metrics, validation, sheets, plots, tables.

May import `pictures`, `config`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
