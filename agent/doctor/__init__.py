"""Examines the machine and its surroundings for `zsad-agent doctor`: each check gives findings with what to do.

May import `probing`, `model`, `sources`, `serving`, `system` and `config`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
