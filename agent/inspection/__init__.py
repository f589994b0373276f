"""From a captured picture to a result: model, verdict, regions, overlay, and handing the result to the sinks.

Taking pictures belongs in `capture`, sending in `mqtt`. May import `capture`, `model`, `messages` and below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
