"""Makes torchvision importable if torch and torchvision were built for different devices."""

import logging

import torch

logger = logging.getLogger(__name__)

_kept: list[torch.library.Library] = []  # operators are removed when their library is garbage-collected


def ensure_torchvision_imports() -> None:
    """Call this before an import of timm, transformers or open_clip: they import torchvision. Repeated calls are cheap.

    These packages use torchvision to load images, which is not used here. A torchvision wheel for CUDA cannot register
    its operators in a torch for the CPU, and package indexes often give this pair. Its import then fails with `operator
    torchvision::nms does not exist`. After this function has declared the operators, the import works. A call of such
    an operator would fail, but no code here calls one.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        logger.info("torchvision's compiled operators do not fit this torch; continuing without them")
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
