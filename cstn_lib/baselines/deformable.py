"""Deformable convolution in CSTN's place: every tap of a window moves as it likes.

Dai, Qi, Xiong, Li, Zhang, Hu, Wei: "Deformable Convolutional Networks", ICCV 2017, section 2.1. A
convolution over the same map gives each location 2 K^2 offsets, one (y, x) per tap, initialised to
zero; the kernel weighs what is sampled at the moved taps. (Here it reads the map through another
convolution, as CSTN's localization network does, so that the two differ in what they regress
alone.) CSTN moves the same taps by the six
numbers of an affine theta, so they remain a window with a place, a size and a tilt. Free taps need
not: the hull of the sampling points, which is the box here, follows the farthest of them, and
nothing asks the rest to stay on the object (section II of the paper).

The offsets are treated like CSTN's thetas: at rest during the warm-up, learning slowly afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from cstn_lib.config import LevelConfig, ModelConfig
from cstn_lib.geometry import Window, identity_theta, sampling_points, unit_box
from cstn_lib.pyramid import PyramidLocalizer
from cstn_lib.samplers.sampling import convolve_points


class DeformableLocalizer(PyramidLocalizer):
    """The paper's network with a `DeformableConv2d` on each level."""

    def make_layer(self, level: LevelConfig, config: ModelConfig) -> DeformableConv2d:
        hidden = config.localization_channels
        return DeformableConv2d(**level.convolution(config.channels), hidden_channels=hidden)

    def apply_layer(
        self, layer: DeformableConv2d, features: Tensor, window: Window, transform: bool
    ) -> tuple[Tensor, None, Tensor | None]:
        if not transform:
            return nn.Conv2d.forward(layer, features), None, None
        windowed, offsets = layer(features)
        size = (features.shape[2], features.shape[3])
        return windowed, None, boxes_of_offsets(offsets.detach(), window, size)

    def localization_parameters(self) -> list[nn.Parameter]:
        trunks = [part for layer in self.layers.values() for part in (layer.read, layer.offsets)]
        return [parameter for trunk in trunks for parameter in trunk.parameters()]


class DeformableConv2d(nn.Conv2d):
    """A convolution whose taps are moved by offsets that two other convolutions read.

    Shape: (B, in_channels, H, W) -> features (B, out_channels, h, w) and offsets
    (B, 2 K^2, h, w) in cells, (y, x) tap by tap as `torchvision.ops.deform_conv2d` takes them.

    That operator computes it on a GPU. On a CPU CSTN's compiled loops give the same values many
    times faster (``benchmarks/``).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        hidden_channels: int = 32,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation=dilation)
        self.window = Window(kernel_size, stride, dilation=dilation)
        self.read = nn.Conv2d(in_channels, hidden_channels, 3, padding=dilation, dilation=dilation)
        self.offsets = nn.Conv2d(
            hidden_channels, 2 * kernel_size**2, kernel_size, stride, dilation=dilation, bias=False
        )
        nn.init.zeros_(self.offsets.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # offsets place points: under autocast they leave bfloat16 here
        offsets = self.offsets(F.relu(self.read(x)))
        offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
        if x.device.type == "cpu":
            points = moved_points(offsets, self.window, (x.shape[2], x.shape[3]))
            kernel = self.weight.permute(0, 2, 3, 1).flatten(1)  # (out, K^2 * in)
            features = convolve_points(x, points, kernel)  # (B, h * w, out)
            features = features + self.bias.to(features.dtype)
            return features.transpose(1, 2).unflatten(2, offsets.shape[2:]), offsets
        x, weight, bias = (value.to(offsets.dtype) for value in (x, self.weight, self.bias))
        moved = deform_conv2d(x, offsets, weight, bias, self.stride, dilation=self.dilation)
        return moved, offsets


def moved_points(offsets: Tensor, window: Window, map_size: tuple[int, int]) -> Tensor:
    """Where each location samples: its window's taps and their offsets (B, 2 K^2, h, w) added.

    Returns:
        (B, h * w, K^2, 2) points (x, y) in cells of the input map of (H, W) cells.
    """
    at_rest = identity_theta(offsets).expand(1, *offsets.shape[2:], 2, 3)
    steps = offsets.flatten(2).transpose(1, 2).unflatten(2, (-1, 2)).flip(-1)
    return sampling_points(at_rest, window, map_size) + steps


def boxes_of_offsets(offsets: Tensor, window: Window, map_size: tuple[int, int]) -> Tensor:
    """The hull of each location's sampling points, clipped to the image.

    Args:
        offsets: (B, 2 K^2, h, w) in cells.
        map_size: (H, W) of the input map in cells, at least 2 x 2.

    Returns:
        (B, h, w, 4) ``xyxy`` in [0, 1].
    """
    points = moved_points(offsets, window, map_size)
    boxes = unit_box(points.amin(dim=2), points.amax(dim=2), map_size)
    return boxes.unflatten(1, offsets.shape[2:])
