"""Distillation: a small student learns the maps and scores of a teacher.

May import `run`, `measure`, `pictures`, `config`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
