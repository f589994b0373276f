"""The agent's settings: one strict model for each section, the folders, and loading from YAML and flags.

May import `system`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
