"""The agent's health for other programs: Prometheus metrics and the HTTP endpoints.

The counts themselves are in `messages`. May import `messages` and below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
