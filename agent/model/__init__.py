"""The bundle that runs: loading, compiling, its cache, predicting, and replacing it while the agent runs.

The bundle's format is in `zsad_core.bundle`. May import `config`, `system`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
