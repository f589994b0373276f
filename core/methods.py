"""Names of the published methods in settings, flags and checkpoints."""

from typing import Literal, get_args

Method = Literal["ava_dino", "ad_dinov3", "visualad"]
METHODS: tuple[Method, ...] = get_args(Method)
METHODS_WITH_TEXT: tuple[Method, ...] = ("ava_dino", "ad_dinov3")
