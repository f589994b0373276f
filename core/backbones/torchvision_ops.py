"""Makes torchvision importable where torch and torchvision were built for different devices."""

import logging

import torch

logger = logging.getLogger(__name__)

_kept: list[torch.library.Library] = []  # declared operators vanish when their library is collected


def ensure_torchvision_imports() -> None:
    """Call before importing what imports torchvision (timm, transformers, open_clip); cheap when repeated.

    They import it for image loading, which is not used here. A torchvision wheel built for CUDA beside a torch built
    for the CPU (package indexes mix them readily) cannot register its operators and fails on import with `operator
    torchvision::nms does not exist`. Declaring these operators lets the import pass; calling one would fail, and
    nothing here does.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        logger.info("torchvision's compiled operators do not fit this torch; going on without them")
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
