"""Theta algebra: sampling grids, default boxes, boxes of a theta (section III-C).

Conventions, stated once for the whole project:

* A *location* of the layer sits on a *centre*, a point of the input map in cell units (x, y); the
  first cell is at (0, 0), the last at (W - 1, H - 1).
* Its K x K sampling grid spans [-1, 1]^2 around the centre; 1 stands for the *half extent*,
  (K - 1) / 2 * dilation cells, so the corner taps of the identity are the corner taps of the
  ordinary convolution.
* theta is (2, 3) and maps a tap (u, v, 1) to (x, y) in that local frame, x first, as in
  `torch.nn.functional.affine_grid`. Its last column is therefore in units of the half extent.
* Cell i of a side of n cells lies at i / (n - 1) of the image, as in the authors' code; a box is
  the axis-aligned hull of its sample points, clipped to the image, ``xyxy`` in [0, 1].
* The *default box* (receptive-field box) of a location is the box of theta = identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Where a K x K kernel looks: the geometry a convolution and its CSTN share.

    Attributes:
        kernel_size: K >= 1.
        stride, padding, dilation: in cells, in the order of `torch.nn.Conv2d`.
    """

    kernel_size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def __post_init__(self) -> None:
        if min(self.kernel_size, self.stride, self.dilation) < 1 or self.padding < 0:
            raise ValueError(
                f"{self}: kernel_size, stride and dilation must be at least 1, padding at least 0"
            )

    @property
    def extent(self) -> int:
        """Distance between the first and the last tap, in cells."""
        return (self.kernel_size - 1) * self.dilation

    def output_size(self, map_size: tuple[int, int]) -> tuple[int, int]:
        """Locations (h, w) on an input map of (H, W) cells.

        Raises:
            ValueError: the window is larger than the padded map.
        """
        height, width = (
            (n + 2 * self.padding - self.extent - 1) // self.stride + 1 for n in map_size
        )
        if height < 1 or width < 1:
            raise ValueError(
                f"a window of {self.extent + 1} cells does not fit a map of "
                f"{map_size[0]}x{map_size[1]} cells padded by {self.padding}"
            )
        return height, width

    def centres(self, map_size: tuple[int, int], device: torch.device | None = None) -> Tensor:
        """(h, w, 2) centres (x, y) of the locations in cells of the input map, float32."""
        height, width = self.output_size(map_size)
        first = self.extent / 2 - self.padding
        y = first + self.stride * torch.arange(height, device=device, dtype=torch.float32)
        x = first + self.stride * torch.arange(width, device=device, dtype=torch.float32)
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)

    def taps(self, device: torch.device | None = None) -> Tensor:
        """(K * K, 2) taps (u, v) in [-1, 1]^2, row by row like a kernel's weights, float32."""
        if self.kernel_size == 1:
            return torch.zeros(1, 2, device=device)
        side = torch.linspace(-1, 1, self.kernel_size, device=device)
        return torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1).reshape(-1, 2)


def identity_theta(like: Tensor | None = None) -> Tensor:
    """theta_ref of Eq. 2: [1 0 0; 0 1 0], of the type and device of `like`."""
    made = {} if like is None else {"dtype": like.dtype, "device": like.device}
    return torch.eye(2, 3, **made)


def sampling_points(theta: Tensor, window: Window, map_size: tuple[int, int]) -> Tensor:
    """Where each location samples the input map.

    Args:
        theta: (B, h, w, 2, 3), with (h, w) the output size of the window.
        map_size: (H, W) of the input map in cells.

    Returns:
        (B, h * w, K * K, 2) points (x, y) in cells of the input map.
    """
    taps = window.taps(theta.device).to(theta.dtype)
    centres = window.centres(map_size, theta.device).to(theta.dtype).flatten(0, 1)  # (L, 2)
    # no matrix product, whose factors autocast and TF32 would round: it moves points
    u, v = taps.split(1, dim=-1)  # (K*K, 1)
    along_u, along_v, shift = (column.flatten(1, 2).unsqueeze(-2) for column in theta.unbind(-1))
    local = u * along_u + v * along_v + shift  # (B, L, K*K, 2)
    return centres.unsqueeze(1) + local * (window.extent / 2)


def boxes_of_theta(theta: Tensor, window: Window, map_size: tuple[int, int]) -> Tensor:
    """The transformed box of every location: the hull of its transformed sample points.

    The hull of an affine image of [-1, 1]^2 needs no points: half its width and half its height
    are the row sums of absolute values of theta's linear part.

    Args:
        theta: (B, h, w, 2, 3).
        map_size: (H, W) of the input map in cells, at least 2 x 2. Where it does not go with the
            window and theta, a ValueError is raised.

    Returns:
        (B, h, w, 4) ``xyxy`` in [0, 1].
    """
    expected = *window.output_size(map_size), 2, 3
    if theta.shape[1:] != expected:
        raise ValueError(f"theta has shape {tuple(theta.shape)}, expected (B, {str(expected)[1:]}")
    half = window.extent / 2
    centre = window.centres(map_size, theta.device).to(theta.dtype) + theta[..., 2] * half
    half_sides = theta[..., :2].abs().sum(dim=-1) * half  # (B, h, w, 2)
    return unit_box(centre - half_sides, centre + half_sides, map_size)


def unit_box(lowest: Tensor, highest: Tensor, map_size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) ``xyxy`` in [0, 1] from corners (..., 2) in cells, clipped to the image.

    Args:
        map_size: (H, W) of the map, at least 2 x 2, or a ValueError is raised.
    """
    height, width = map_size
    if min(map_size) < 2:
        raise ValueError(f"a map of {height}x{width} cells has no boxes, expected 2x2 or more")
    corners = torch.cat([lowest, highest], dim=-1)
    # sizes as numbers, not as a tensor: a trace would keep the first map's
    x, y = corners[..., 0::2] / (width - 1), corners[..., 1::2] / (height - 1)
    return torch.stack([x, y], dim=-1).flatten(-2).clamp(0, 1)


def default_boxes(
    window: Window, map_size: tuple[int, int], device: torch.device | None = None
) -> Tensor:
    """The receptive-field box of every location, (h, w, 4) ``xyxy`` in [0, 1]."""
    height, width = window.output_size(map_size)
    theta = torch.eye(2, 3, device=device).expand(1, height, width, 2, 3)
    return boxes_of_theta(theta, window, map_size)[0]
