"""Pictures as pixels: decoding, resizing, heatmaps, regions of a map. Runs without torch."""

from zsad_core.picture.heatmap import blend
from zsad_core.picture.imaging import (
    IMAGE_SUFFIXES,
    decode_image,
    find_images,
    is_picture_file,
    read_image,
    read_mask,
    resize_map,
    resize_to_input,
    to_bgr8,
)
from zsad_core.picture.regions import find_regions
from zsad_core.picture.resize_rule import RESIZE_RULE, ResizeRule

__all__ = [
    "IMAGE_SUFFIXES",
    "RESIZE_RULE",
    "ResizeRule",
    "blend",
    "decode_image",
    "find_images",
    "find_regions",
    "is_picture_file",
    "read_image",
    "read_mask",
    "resize_map",
    "resize_to_input",
    "to_bgr8",
]
