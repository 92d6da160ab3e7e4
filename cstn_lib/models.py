"""The paper's network, and the one place where a configuration becomes a network."""

from __future__ import annotations

from torch import Tensor, nn

from cstn_lib.baselines import (
    ADL,
    CAM,
    SPG,
    ACoL,
    DeformableLocalizer,
    GlobalSTN,
    HaS,
    PlainLocalizer,
)
from cstn_lib.config import PAPER_LEVELS, LevelConfig, ModelConfig
from cstn_lib.cstn import ConvSTN2d
from cstn_lib.geometry import Window, boxes_of_theta
from cstn_lib.outputs import LocalizerOutput
from cstn_lib.pyramid import PyramidLocalizer
from cstn_lib.support.errors import InputError, unknown_name

__all__ = [
    "PAPER_LEVELS",
    "CSTNLocalizer",
    "LevelConfig",
    "LocalizerOutput",
    "ModelConfig",
    "build_model",
]


def build_model(config: ModelConfig) -> nn.Module:
    """The network of a configuration, a `cstn_lib.outputs.Localizer`.

    Its backbone's starting weights are loaded.

    Raises:
        InputError: a name is unknown, or the weights cannot be had.
    """
    heads = {
        "cstn": CSTNLocalizer,
        "conv": PlainLocalizer,
        "deform": DeformableLocalizer,
        "stn": GlobalSTN,
        "cam": CAM,
        "has": HaS,
        "acol": ACoL,
        "spg": SPG,
        "adl": ADL,
    }
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
            level.stride,
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
