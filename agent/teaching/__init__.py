"""What the agent learns from good parts: teach-in, profiles, their store, and predictions with a profile.

The arithmetic is in `zsad_core.memory`, the place of the part in `zsad_core.part`. May import `config`, `messages`,
`model`, `picture_health`, `system`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
