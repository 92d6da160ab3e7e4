"""`ConvSTN2d`, the convolutional spatial transformer (section III-C).

An ordinary K x K convolution looks at each location through the same square window. Here a small
localization network reads the map and gives every location its own affine theta; the window is
transformed by it, the map is sampled bilinearly at the K x K transformed taps, and the same kernel
weighs the samples:

    theta = loc(f),        f' = conv(f, theta).

With theta = identity the layer *is* `torch.nn.Conv2d`, and it is initialised there. See
`cstn_lib.geometry` for the meaning of theta.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstn_lib.geometry import Window, identity_theta
from cstn_lib.samplers.sampling import SAMPLERS, choose_sampler

__all__ = ["SAMPLERS", "ConvSTN2d", "LocalizationNetwork"]


class LocalizationNetwork(nn.Module):
    """theta = loc(f): two convolutions, the second of which sees what the window sees.

    The first keeps the map's size, the second visits the same locations as the window and ends in
    the six entries of theta. Its weights start at zero and it has no bias: every theta starts as
    the identity, to which its output is added.

    In the authors' code the first convolution is as large as the window, too. Ours is 3 x 3 (never
    larger than the window) with the window's dilation: theta reads as well from it, and it costs
    9 / K^2 as much, where theirs costs about as much as the layer it serves.

    Args:
        in_channels: C of the map it reads.
        window: the geometry of the layer it serves.
        hidden_channels: width between the convolutions.

    Shape: (B, C, H, W) -> (B, h, w, 2, 3), with (h, w) = ``window.output_size((H, W))``.
    """

    def __init__(self, in_channels: int, window: Window, hidden_channels: int) -> None:
        super().__init__()
        size = 3 if window.kernel_size >= 3 else 1
        self.read = nn.Conv2d(
            in_channels,
            hidden_channels,
            size,
            padding=size // 2 * window.dilation,
            dilation=window.dilation,
        )
        self.regress = nn.Conv2d(
            hidden_channels,
            6,
            window.kernel_size,
            stride=window.stride,
            padding=window.padding,
            dilation=window.dilation,
            bias=False,
        )
        nn.init.zeros_(self.regress.weight)

    def forward(self, features: Tensor) -> Tensor:
        change = self.regress(F.relu(self.read(features)))  # (B, 6, h, w)
        # theta places boxes: under autocast it leaves bfloat16 here
        change = change.to(torch.promote_types(change.dtype, torch.float32))
        change = change.permute(0, 2, 3, 1).unflatten(-1, (2, 3))
        return identity_theta(change) + change


class ConvSTN2d(nn.Module):
    """A convolution whose window is transformed at every location.

    Drops in for `torch.nn.Conv2d`: same names and shapes of ``weight`` and ``bias``, same output
    size, same result while theta is the identity. From Meethal et al., "Convolutional STN for
    Weakly Supervised Object Localization", 2020, section III-C.

    Args:
        in_channels: C of the input map.
        out_channels: channels produced by the convolution.
        kernel_size: K; the window is K x K taps.
        stride: step between locations, in cells.
        padding: zeros around the map, in cells; 0 (the default) keeps to valid locations.
        dilation: distance between taps, in cells.
        bias: whether to add a learned bias.
        localization: a module (B, C, H, W) -> theta (B, h, w, 2, 3); by default a
            `LocalizationNetwork`.
        localization_channels: hidden width of the default localization network.
        sampler: a name of `SAMPLERS`, or ``"auto"``; all give the same values and gradients, but
            for a tap exactly on a cell, where the bilinear mean has a kink and the gradient of
            theta may be either side's. ``"grid_sample"`` alone has second derivatives.

    Shape:
        - input: (B, in_channels, H, W)
        - features: (B, out_channels, h, w)
        - theta: (B, h, w, 2, 3)

    On a CPU ``layer.to(memory_format=torch.channels_last)`` saves a copy of the weight a call.

    Examples::

        >>> layer = ConvSTN2d(64, 128, kernel_size=7)
        >>> features, theta = layer(torch.rand(2, 64, 10, 10))
        >>> features.shape, theta.shape
        (torch.Size([2, 128, 4, 4]), torch.Size([2, 4, 4, 2, 3]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
        *,
        localization: nn.Module | None = None,
        localization_channels: int = 64,
        sampler: str = "auto",
    ) -> None:
        super().__init__()
        if sampler != "auto" and sampler not in SAMPLERS:
            raise ValueError(
                f"sampler {sampler!r}: expected 'auto' or one of {', '.join(SAMPLERS)}"
            )
        self.window = Window(kernel_size, stride, padding, dilation)
        self.sampler = sampler
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        if localization is None:
            localization = LocalizationNetwork(in_channels, self.window, localization_channels)
        self.localization = localization
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise weight and bias as `torch.nn.Conv2d` does."""
        # drawn tap by tap, as the published networks were, whatever the weight's layout
        taps_first = torch.empty_like(self.weight, memory_format=torch.channels_last)
        nn.init.kaiming_uniform_(taps_first, a=math.sqrt(5))
        with torch.no_grad():
            self.weight.copy_(taps_first)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, theta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve with the given theta, or with the one the localization network reads from `x`.

        Raises:
            ValueError: `x` or `theta` has a shape other than the one documented above, or is of
                integers.
        """
        batch, size = self._check_input(x)
        height, width = self.window.output_size(size)
        if theta is None:
            theta = self.localization(x)
        if theta.shape != (batch, height, width, 2, 3):
            raise ValueError(
                f"theta has shape {tuple(theta.shape)}, expected ({batch}, {height}, {width}, 2, 3)"
            )
        # bfloat16 would move points by whole cells, whoever made theta
        theta = theta.to(torch.promote_types(theta.dtype, torch.float32))
        kernel = self.weight.permute(0, 2, 3, 1).flatten(1)  # (out, K*K*C)
        sampler = choose_sampler(x) if self.sampler == "auto" else self.sampler
        features = SAMPLERS[sampler](x, theta, self.window, kernel)  # (B, L, out)
        if self.bias is not None:
            features = features + self.bias.to(features.dtype)
        return features.transpose(1, 2).unflatten(2, (height, width)), theta

    def plain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same layer at theta = identity, as the ordinary convolution that it then is.

        Raises:
            ValueError: `x` has a shape other than the one documented above, or is of integers.
        """
        batch, size = self._check_input(x)
        w = self.window
        features = F.conv2d(x, self.weight, self.bias, w.stride, w.padding, w.dilation)
        return features, identity_theta(x).expand(batch, *w.output_size(size), 2, 3)

    def _check_input(self, x: Tensor) -> tuple[int, tuple[int, int]]:
        if x.dim() != 4 or x.shape[1] != self.weight.shape[1]:
            raise ValueError(
                f"input has shape {tuple(x.shape)}, expected (B, {self.weight.shape[1]}, H, W)"
            )
        if not x.is_floating_point():
            raise ValueError(f"input is of {x.dtype}, expected a floating-point type")
        return x.shape[0], (x.shape[2], x.shape[3])

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        w = self.window
        return (
            f"{in_channels}, {out_channels}, kernel_size={w.kernel_size}, stride={w.stride}, "
            f"padding={w.padding}, dilation={w.dilation}, bias={self.bias is not None}, "
            f"sampler={self.sampler!r}"
        )
