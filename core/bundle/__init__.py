"""The bundle: manifest, files, hashes, signature, measurements at export, and prompt bank. Runs without torch.

The agent compiles models; convert writes bundles. May import `picture` and the top of core.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
