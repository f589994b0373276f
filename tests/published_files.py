"""Content in the form of the authors' checkpoints, made of the weights of our modules."""

from typing import Any

AD_MODULES = ("cls_token_adapter", "patch_token_adapter", "prompt_adapter")
AVA_MODULES = (
    "cls_token_adapter_normal",
    "cls_token_adapter_anomaly",
    "patch_token_adapter_normal",
    "patch_token_adapter_anomaly",
    "prompt_adapter",
    "text_projection",
)


def module_states(head: Any, modules: tuple[str, ...]) -> dict[str, Any]:
    """AVA-DINO's and AD-DINOv3's form: a state dict for each module."""
    return {name: dict(getattr(head, name).state_dict()) for name in modules}


def visualad_content(head: Any, taps: list[int], **entries: object) -> dict[str, Any]:
    """VisualAD's form; the final norm's weights are 2 and its biases 3, and `entries` are image_size, backbone, …"""
    import torch

    width = head.config.embed_dim
    return {
        "anomaly_token": head.anomaly_token.data,
        "normal_token": head.normal_token.data,
        "ln_post_weight": torch.full((width,), 2.0),
        "ln_post_bias": torch.full((width,), 3.0),
        "features_list": taps,
        "layer_transforms": {
            f"layer_{tap}": dict(module.state_dict()) for tap, module in zip(taps, head.layer_transforms, strict=True)
        },
        "cross_attn": {
            f"layer_attentions.layer_{tap}.{name}": value
            for tap, module in zip(taps, head.cross_attn, strict=True)
            for name, value in module.state_dict().items()
        },
        "cross_attn_config": {"num_anchors": 4, "dropout": 0.2, "res_scale_init": 0.01, "apply_to_layer24": True},
        **entries,
    }
