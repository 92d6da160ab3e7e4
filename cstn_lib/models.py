"""The paper's network, and the one place where a configuration becomes a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cstn_lib.backbones import BACKBONES, PYRAMID, Backbone, Normalize, build_backbone
from cstn_lib.baselines import PlainLocalizer
from cstn_lib.config import PAPER_LEVELS, LevelConfig, ModelConfig
from cstn_lib.cstn import ConvSTN2d
from cstn_lib.errors import InputError, unknown_name
from cstn_lib.geometry import Window, boxes_of_theta
from cstn_lib.localizer import LocalizerOutput
from cstn_lib.pyramid import PyramidLocalizer

__all__ = [
    "BACKBONES",
    "PAPER_LEVELS",
    "Backbone",
    "CSTNLocalizer",
    "LevelConfig",
    "LocalizerOutput",
    "ModelConfig",
    "PooledClassifier",
    "build_model",
]


def build_model(config: ModelConfig) -> nn.Module:
    """The network of a configuration, with its backbone's starting weights loaded.

    Raises:
        InputError: a name is unknown, or the weights cannot be had.
    """
    heads = {"cstn": CSTNLocalizer, "conv": PlainLocalizer, "pooled": PooledClassifier}
    if config.head not in heads:
        raise unknown_name("head", config.head, heads)
    if config.num_classes < 1:
        raise InputError(f"num_classes {config.num_classes}: expected 1 or more")
    return heads[config.head](config)


class CSTNLocalizer(PyramidLocalizer):
    """The paper's network (section III-E): a `ConvSTN2d` attends on each level of the pyramid."""

    def attention(self, level: LevelConfig, config: ModelConfig) -> ConvSTN2d:
        return ConvSTN2d(
            config.channels,
            config.channels,
            level.kernel_size,
            dilation=level.dilation,
            localization_channels=config.localization_channels,
        )

    def look(
        self, layer: ConvSTN2d, features: Tensor, window: Window, transform: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        attended, theta = layer(features) if transform else layer.plain(features)
        size = (features.shape[2], features.shape[3])
        return attended, theta, boxes_of_theta(theta.detach().float(), window, size)

    def localization_parameters(self) -> list[nn.Parameter]:
        """Those of the localization networks."""
        return [p for layer in self.attend.values() for p in layer.localization.parameters()]


class PooledClassifier(nn.Module):
    """Backbone, global average pooling, linear classifier: how a backbone is pretrained.

    It votes once for the whole image, so its joint distribution is the ordinary softmax and its one
    box is the frame.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.level_names = PYRAMID[-1:]
        self.normalize = Normalize()
        self.backbone = build_backbone(config)
        self.classifier = nn.Conv2d(self.backbone.widths[PYRAMID[-1]], config.num_classes, 1)

    def forward(self, images: Tensor, transform: bool = True) -> LocalizerOutput:
        """`transform` is accepted for one interface with `CSTNLocalizer`; there is none here."""
        pooled = self.backbone(self.normalize(images))[PYRAMID[-1]].mean(dim=(2, 3), keepdim=True)
        frame = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=images.device)
        return LocalizerOutput(
            [self.classifier(pooled)], [], frame.expand(len(images), 1, 4), frame
        )

    def localization_parameters(self) -> list[nn.Parameter]:
        """None: nothing moves."""
        return []
