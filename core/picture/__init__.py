"""Operations on image pixels: decoding, resizing, heatmaps, regions of an anomaly map. Runs without torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
