"""AD-DINOv3 (arXiv 2509.14084): per tap one adapter for class and one for patch tokens, matched in the text space."""

import torch.nn.functional as F
from torch import Tensor, nn

from zsad_core.heads.matching import Adapted, Adapter, MatchingConfig, MatchingHead, tapped_at_u


class AdDinoV3(MatchingHead):
    """Uses the first layer of each adapter, which has the width of the text. No residual, routing or projection.

    The awareness map is the paper's Anomaly-Aware Calibration Module.
    """

    def __init__(self, config: MatchingConfig) -> None:
        super().__init__(config)
        self.config = config

        def adapters() -> nn.ModuleList:
            return nn.ModuleList(Adapter(config.embed_dim, config.text_dim) for _ in range(config.num_taps))

        self.cls_token_adapter = adapters()
        self.patch_token_adapter = adapters()
        tapped_at_u(self.cls_token_adapter)
        tapped_at_u(self.patch_token_adapter)

    def prompt_vectors(self, text: Tensor) -> Tensor:
        """[B, T, 2] -> [B, 1, 2, T]: the adapted text, (normal, anomalous), not normalised."""
        return self.adapted_text(text).unsqueeze(1)

    def adapt(self, tap: int, cls_token: Tensor, patch_tokens: Tensor, prompts: Tensor) -> Adapted:
        """Maps one tap's tokens into the text space; does not depend on the text. See `MatchingHead.adapt`."""
        return Adapted(
            cls_token=F.normalize(self.cls_token_adapter[tap].hidden(cls_token), dim=-1),  # type: ignore[operator]
            patch_tokens=F.normalize(self.patch_token_adapter[tap].hidden(patch_tokens), dim=-1),  # type: ignore[operator]
            routing=None,
        )
