"""The bundle: manifest, files, hashes, signature, measurements of its making, and prompt bank. Runs without torch.

Compiling belongs in the agent, writing in convert. May import `picture` and the top of core.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
