"""Bilinear sampling of a map at free points, and the convolution of the samples (section III-C).

A sampler is a differentiable function (features (B, C, H, W), points (B, L, T, 2)) -> values
(B, L, T, C). Points are (x, y) in cells; a value is the bilinear mean of the four cells around its
point, and outside the map everything is zero. The ways of `SAMPLERS` give the same values and
gradients and differ in speed:

* ``loops``: the plain loops of `cstn_lib.bilinear_loops`, compiled; CPU only, needs numba.
* ``gather``: four neighbours and their weights through `torch.nn.functional.embedding_bag`.
* ``grid_sample``: `torch.nn.functional.grid_sample`, once for all locations of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["SAMPLERS", "choose_sampler", "convolve_samples"]

Sampler = Callable[[Tensor, Tensor], Tensor]

HAS_NUMBA = find_spec("numba") is not None
CACHE_BYTES = 4 << 20  # of samples at a time: about a second-level cache


def choose_sampler(features: Tensor) -> str:
    """The fastest sampler for a map's device and width, as measured in ``benchmarks/``."""
    if features.device.type != "cpu":
        return "grid_sample"
    if HAS_NUMBA:
        return "loops"
    return "gather" if features.shape[1] < 256 else "grid_sample"


def convolve_samples(features: Tensor, points: Tensor, kernel: Tensor, sampler: str) -> Tensor:
    """Sample the map at the points of every location and weigh the samples with one kernel.

    Args:
        features: (B, C, H, W).
        points: (B, L, T, 2) as (x, y) in cells.
        kernel: (out, T * C), taps first.
        sampler: a name of `SAMPLERS`.

    Returns:
        (B, L, out), of the kernel's type or, under autocast, of autocast's.
    """
    if torch.is_autocast_enabled(features.device.type):
        kernel = kernel.to(torch.get_autocast_dtype(features.device.type))
    if sampler == "loops":
        return _ConvolveLoops.apply(*_widened(features, points), kernel)
    values = SAMPLERS[sampler](features, points)
    return F.linear(values.flatten(2).to(kernel.dtype), kernel)


def _sample_loops(features: Tensor, points: Tensor) -> Tensor:
    """The compiled loops."""
    return _SampleLoops.apply(*_widened(features, points)).to(features.dtype)


class _SampleLoops(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, points):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(features, points)
        return _Loops(features, points).sample(slice(None)).view(*points.shape[:3], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        loops = _Loops(*ctx.saved_tensors)
        loops.spread(slice(None), gradient)
        return loops.gradients()


class _ConvolveLoops(torch.autograd.Function):
    """The compiled loops and the matrix product, a few images at a time.

    The samples are T times as large as the map. They are never all there: one buffer, small enough
    for the cache, holds those of a few images, and the backward pass draws them again.
    """

    @staticmethod
    def forward(ctx, features, points, kernel):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(features, points, kernel)
        loops = _Loops(features, points)
        outputs = kernel.new_empty(*points.shape[:2], len(kernel))
        for images in loops.chunks():
            product = loops.sample(images).to(kernel.dtype) @ kernel.T
            outputs[images] = product.view_as(outputs[images])
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        features, points, kernel = ctx.saved_tensors
        loops = _Loops(features, points)
        of_kernel = torch.zeros_like(kernel)
        for images in loops.chunks():
            coming = gradient[images].to(kernel.dtype).flatten(0, 1)  # (b * L, out)
            of_kernel.addmm_(coming.T, loops.sample(images).to(kernel.dtype))
            loops.spread(images, coming @ kernel)
        return *loops.gradients(), of_kernel


class _Loops:
    """A map and its points, laid out for `cstn_lib.bilinear_loops`."""

    def __init__(self, features: Tensor, points: Tensor) -> None:
        self.shape = points.shape  # (B, L, T, 2)
        self.size = (features.shape[2], features.shape[3])
        self.cells = _with_rim(features)  # (B, H + 2, W + 2, C)
        self.points = points.flatten(1, 2).contiguous()
        self.threads = torch.get_num_threads()
        self.buffer: Tensor | None = None
        self.of_cells: Tensor | None = None
        self.of_points: Tensor | None = None

    def chunks(self) -> list[slice]:
        """The batch in parts whose samples stay in the cache, an image or more a thread."""
        batch, locations, taps, _ = self.shape
        an_image = locations * taps * self.cells.shape[-1] * self.cells.element_size()
        step = max(CACHE_BYTES // max(an_image, 1), self.threads)
        return [slice(start, min(start + step, batch)) for start in range(0, batch, step)]

    def sample(self, images: slice) -> Tensor:
        """(b * L, T * C) samples, in a buffer that the next call may overwrite."""
        from cstn_lib import bilinear_loops  # importing numba takes longer than many a script

        cells, points = self.cells[images], self.points[images]
        if self.buffer is None:
            self.buffer = cells.new_empty(*points.shape[:2], cells.shape[-1])
        values = self.buffer[: len(points)]
        bilinear_loops.sample(
            cells.numpy(), points.numpy(), self.size, values.numpy(), self.threads
        )
        return values.view(len(points) * self.shape[1], -1)

    def spread(self, images: slice, gradient: Tensor) -> None:
        """Take the gradient of the samples of some images."""
        from cstn_lib import bilinear_loops

        if self.of_cells is None:
            self.of_cells = torch.zeros_like(self.cells)
            self.of_points = torch.empty_like(self.points)
        points = self.points[images]
        bilinear_loops.spread(
            self.cells[images].numpy(),
            points.numpy(),
            self.size,
            gradient.to(self.cells.dtype).reshape(*points.shape[:2], -1).numpy(),
            self.of_cells[images].numpy(),
            self.of_points[images].numpy(),
            self.threads,
        )

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Of the features and of the points, once all images were spread."""
        inner = self.of_cells[:, 1:-1, 1:-1]
        return inner.permute(0, 3, 1, 2), self.of_points.view(self.shape)


def _widened(features: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 at least: bfloat16 would move points by whole cells."""
    wide = torch.promote_types(torch.promote_types(features.dtype, points.dtype), torch.float32)
    return features.to(wide), points.to(wide)


def _sample_gather(features: Tensor, points: Tensor) -> Tensor:
    """Four neighbours and their weights through `embedding_bag`, with channels last."""
    batch, channels, height, width = features.shape
    x, y = points[..., 0].clamp(-1, width) + 1, points[..., 1].clamp(-1, height) + 1
    # the last cell keeps a right-hand neighbour: its own weight is then 0 or 1
    # and a theta that is NaN gives NaN values, not an index outside
    left = x.detach().floor().clamp(0, width).nan_to_num(0)
    top = y.detach().floor().clamp(0, height).nan_to_num(0)
    across = torch.stack([1 - (x - left), x - left], dim=-1)
    down = torch.stack([1 - (y - top), y - top], dim=-1)
    weights = (down.unsqueeze(-1) * across.unsqueeze(-2)).view(-1, 4).to(features.dtype)
    stride = width + 2
    image = torch.arange(batch, device=points.device).view(-1, 1, 1) * ((height + 2) * stride)
    corner = (image + top.long() * stride + left.long()).view(-1, 1)
    neighbours = corner + torch.tensor([0, 1, stride, stride + 1], device=points.device)
    values = F.embedding_bag(
        neighbours, _with_rim(features).flatten(0, 2), mode="sum", per_sample_weights=weights
    )
    return values.view(*points.shape[:3], channels)


def _with_rim(features: Tensor) -> Tensor:
    """(B, H + 2, W + 2, C): channels last, with zeros around for everything outside."""
    return F.pad(features.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()


def _sample_grid(features: Tensor, points: Tensor) -> Tensor:
    """`grid_sample` for all locations at once."""
    size = points.new_tensor([features.shape[3], features.shape[2]])
    grid = (2 * points + 1) / size - 1
    # in the points' precision: bfloat16 would move them by whole cells
    values = F.grid_sample(features.to(grid.dtype), grid, align_corners=False)  # (B, C, L, T)
    return values.to(features.dtype).permute(0, 2, 3, 1)


SAMPLERS: dict[str, Sampler] = {
    "loops": _sample_loops,
    "gather": _sample_gather,
    "grid_sample": _sample_grid,
}
