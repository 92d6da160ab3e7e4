"""ADL, attention-based dropout: hide the most attended cells of a map, or stress them.

Choe, Shim: "Attention-based Dropout Layer for Weakly Supervised Object Localization", CVPR 2019,
section 3. A map's mean over its channels tells how much each cell is attended, without a parameter.
In training, each batch meets one of two maps at random, multiplied into the features:

* the *drop mask*, with probability 75 % (drop rate): 0 where the attention reaches gamma = 0.9 of
  its maximum, 1 elsewhere, so that the rest of the object must be used, too;
* else the *importance map*, the sigmoid of the attention, so that classification stays good.

At test time the layer does nothing. The paper inserts it behind several of the higher maps of a
backbone; here it stands behind the stages of levels 4 and 5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cstn_lib.backbones import PYRAMID
from cstn_lib.baselines.cam import CAM
from cstn_lib.config import ModelConfig

DROP_RATE = 0.75
DROP_THRESHOLD = 0.9


class ADL(CAM):
    """CAM with an `AttentionDropout` behind each of the backbone's last stages."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.dropout = AttentionDropout()
        # a model of timm is one stage, and its last map the only one within reach
        self.takes_maps = len(self.backbone.stages) == 1

    def features(self, images: Tensor) -> Tensor:
        """Partly dropped while training."""
        if self.takes_maps:
            return self.dropout(super().features(images))
        features = images
        higher = len(self.backbone.stages) - len(PYRAMID)
        for index, stage in enumerate(self.backbone.stages):
            features = stage(features)
            if index >= higher:
                features = self.dropout(features)
        return features


class AttentionDropout(nn.Module):
    """The layer: features (B, channels, h, w) in, of the same shape out."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return features
        attention = features.mean(dim=1, keepdim=True)  # (B, 1, h, w)
        dropping = torch.rand((), device=features.device) < DROP_RATE
        return features * torch.where(dropping, drop_mask(attention), attention.sigmoid())


def drop_mask(attention: Tensor) -> Tensor:
    """0 where the attention (B, 1, h, w) reaches gamma of its maximum in the image, else 1."""
    strongest = attention.amax(dim=(2, 3), keepdim=True)
    return (attention < DROP_THRESHOLD * strongest).to(attention.dtype)
