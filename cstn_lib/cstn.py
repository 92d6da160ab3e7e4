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
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstn_lib.geometry import Window, identity_theta, sampling_points

__all__ = ["SAMPLERS", "ConvSTN2d", "LocalizationNetwork"]


class LocalizationNetwork(nn.Module):
    """theta = loc(f): two convolutions of the window's size, as in the authors' code.

    The first keeps the map's size, the second visits the same locations as the window and ends in
    the six entries of theta. Its weights start at zero and it has no bias: every theta starts as
    the identity, to which its output is added.

    Args:
        in_channels: C of the map it reads.
        window: the geometry of the layer it serves.
        hidden_channels: width between the convolutions.

    Shape: (B, C, H, W) -> (B, h, w, 2, 3), with (h, w) = ``window.output_size((H, W))``.
    """

    def __init__(self, in_channels: int, window: Window, hidden_channels: int) -> None:
        super().__init__()
        # an even window cannot be centred: "same" then keeps the size by padding one side more
        self.read = nn.Conv2d(
            in_channels,
            hidden_channels,
            window.kernel_size,
            padding="same",
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
        sampler: a name of `SAMPLERS`, or ``"auto"``; all give the same values and gradients.

    Shape:
        - input: (B, in_channels, H, W)
        - features: (B, out_channels, h, w)
        - theta: (B, h, w, 2, 3)

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
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, theta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve with the given theta, or with the one the localization network reads from `x`.

        Raises:
            ValueError: `x` or `theta` has a shape other than the one documented above.
        """
        batch, size = self._check_input(x)
        height, width = self.window.output_size(size)
        if theta is None:
            theta = self.localization(x)
        if theta.shape != (batch, height, width, 2, 3):
            raise ValueError(
                f"theta has shape {tuple(theta.shape)}, expected ({batch}, {height}, {width}, 2, 3)"
            )
        points = sampling_points(theta, self.window, size)
        sample = SAMPLERS[_choose_sampler(x) if self.sampler == "auto" else self.sampler]
        samples = sample(x, points)  # (B, L, K*K, C)
        kernel = self.weight.permute(0, 2, 3, 1).flatten(1)  # (out, K*K*C)
        features = F.linear(samples.flatten(2), kernel, self.bias)  # (B, L, out)
        return features.transpose(1, 2).unflatten(2, (height, width)), theta

    def plain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same layer at theta = identity, as the ordinary convolution that it then is.

        Raises:
            ValueError: `x` has a shape other than the one documented above.
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
        return x.shape[0], (x.shape[2], x.shape[3])

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        w = self.window
        return (
            f"{in_channels}, {out_channels}, kernel_size={w.kernel_size}, stride={w.stride}, "
            f"padding={w.padding}, dilation={w.dilation}, bias={self.bias is not None}, "
            f"sampler={self.sampler!r}"
        )


# Samplers: (features (B, C, H, W), points (B, L, T, 2) in cells) -> values (B, L, T, C).
# Bilinear between the four cells around a point; outside the map everything is zero.


def _sample_grid(features: Tensor, points: Tensor) -> Tensor:
    """`grid_sample` for all locations at once."""
    size = points.new_tensor([features.shape[3], features.shape[2]])
    grid = (2 * points + 1) / size - 1
    # in the points' precision: bfloat16 would move them by whole cells
    values = F.grid_sample(features.to(grid.dtype), grid, align_corners=False)  # (B, C, L, T)
    values = values.to(features.dtype)
    return values.permute(0, 2, 3, 1)


def _sample_gather(features: Tensor, points: Tensor) -> Tensor:
    """Four neighbours and their weights through `embedding_bag`, with channels last."""
    batch, channels, height, width = features.shape
    # a rim of zeros stands for everything outside: points are clamped onto it
    rows = F.pad(features, (1, 1, 1, 1)).permute(0, 2, 3, 1).reshape(-1, channels)
    x = points[..., 0].clamp(-1, width) + 1
    y = points[..., 1].clamp(-1, height) + 1
    # the last cell keeps a right-hand neighbour: its own weight is then 0 or 1
    # and a theta that is NaN gives NaN values, not an index outside
    left = x.detach().floor().clamp(0, width).nan_to_num(0)
    top = y.detach().floor().clamp(0, height).nan_to_num(0)
    right_part, lower_part = x - left, y - top
    left_part, upper_part = 1 - right_part, 1 - lower_part
    weights = torch.stack(
        [
            upper_part * left_part,
            upper_part * right_part,
            lower_part * left_part,
            lower_part * right_part,
        ],
        dim=-1,
    )
    stride = width + 2
    image = torch.arange(batch, device=points.device).view(-1, 1, 1) * ((height + 2) * stride)
    corner = (image + top.long() * stride + left.long()).flatten()
    steps = torch.tensor([0, 1, stride, stride + 1], device=points.device)
    weights = weights.view(-1, 4).to(rows.dtype)
    values = F.embedding_bag(
        corner.unsqueeze(1) + steps, rows.detach(), mode="sum", per_sample_weights=weights
    )
    values = _SpreadToCells.apply(values, rows, corner, weights, stride)
    return values.view(*points.shape[:3], channels)


class _SpreadToCells(torch.autograd.Function):
    """Passes sampled values on and, backward, spreads their gradient over the cells they came from.

    `embedding_bag` can do so itself, but sorts all four neighbours of all points first. Here points
    are sorted once by their upper left neighbour, summed, and the four sums shifted into place.
    """

    @staticmethod
    def forward(ctx, values, rows, corner, weights, stride):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(corner, weights)
        ctx.cells, ctx.stride = len(rows), stride
        return values.view_as(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        corner, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        spread = gradient.new_zeros(ctx.cells, gradient.shape[1])
        order = corner.argsort()
        starts = F.pad(torch.bincount(corner, minlength=ctx.cells).cumsum(0)[:-1], (1, 0))
        weights = weights[order]
        for neighbour, step in enumerate((0, 1, ctx.stride, ctx.stride + 1)):
            part = F.embedding_bag(
                order,
                gradient,
                starts,
                mode="sum",
                per_sample_weights=weights[:, neighbour].contiguous(),
            )
            # the last row and column are the rim: no point has its upper left neighbour there
            spread[step:] += part[: ctx.cells - step]
        return gradient, spread, None, None, None


SAMPLERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gather": _sample_gather,
    "grid_sample": _sample_grid,
}


def _choose_sampler(features: Tensor) -> str:
    """The faster sampler for this device and width, as measured."""
    return "gather" if features.device.type == "cpu" and features.shape[1] < 256 else "grid_sample"
