"""Training runs and protocols: trainer, objective, processes, resume, log, cached features.

May import `measure`, `pictures`, `config`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
