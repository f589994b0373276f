"""The messages of the agent: results, statistics, topics, counts, and their JSON Schemas.

Sending belongs in `mqtt`. May import `system`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
