"""Plain convolution in CSTN's place: the other row of Table II.

The same pyramid, the same kernels, the same joint distribution; only the windows stay where they
are, so the box of a location is its default (receptive-field) box.
"""

from __future__ import annotations

from torch import Tensor, nn

from cstn_lib.config import LevelConfig, ModelConfig
from cstn_lib.geometry import Window
from cstn_lib.pyramid import PyramidLocalizer

__all__ = ["PlainLocalizer"]


class PlainLocalizer(PyramidLocalizer):
    """The paper's network without its transform."""

    def attention(self, level: LevelConfig, config: ModelConfig) -> nn.Module:
        return nn.Conv2d(
            config.channels,
            config.channels,
            level.kernel_size,
            level.stride,
            dilation=level.dilation,
        )

    def look(
        self, layer: nn.Module, features: Tensor, window: Window, transform: bool
    ) -> tuple[Tensor, None, None]:
        return layer(features), None, None
