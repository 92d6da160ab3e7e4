"""f' = conv(f, theta) (section III-C) in ways that differ in speed alone.

A sampler is a differentiable function (features (B, C, H, W), theta (B, h, w, 2, 3), window, kernel
(out, K * K * C), taps first) -> (B, h * w, out). It draws the bilinear mean of the four cells
around every transformed tap of every location, zero outside the map, and weighs what a location
drew with the kernel. The ways of `SAMPLERS` give the same values and gradients, but for taps
exactly on a cell: there the mean has a kink, and the gradient of theta may be either side's.

* ``loops``: the plain loops of `cstn_lib.samplers.loops`, compiled; CPU only, needs numba.
* ``grid_sample``: `torch.nn.functional.grid_sample`, once for all locations of an image; all that
  PyTorch does with its own operations: second derivatives, `torch.func`, compiling, exporting.

A tap infinitely far away lies outside the map and draws zeros; one that is NaN (as of an infinite
entry of theta times a tap's zero) makes NaN of what its location draws.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from cstn_lib.geometry import Window, sampling_points

Sampler = Callable[[Tensor, Tensor, Window, Tensor], Tensor]

ONE_DERIVATIVE = (
    "sampler 'loops' has no second derivative and is not for torch.func; use sampler='grid_sample'"
)
CACHE_BYTES = 4 << 20  # of samples at a time, about as much as the caches of two processors hold


def choose_sampler(features: Tensor) -> str:
    """The fastest sampler for a map's device, as measured in ``benchmarks/``.

    What follows PyTorch's operations (`torch.compile`, `torch.export`, `torch.jit.trace`, whatever
    is a mode of its dispatcher) gets them, because it cannot follow numba.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "grid_sample"
    # torch tells of modes only privately; where it no longer does, nothing else changes
    recorded = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)() > 0
    on_cpu = features.device.type == "cpu"
    return "loops" if on_cpu and not recorded and has_loops() else "grid_sample"


@cache
def has_loops() -> bool:
    """Whether numba is installed and works, which takes importing it: a second, once."""
    try:
        from numba import config

        if not config.DISABLE_JIT:  # as a debugger may ask
            import cstn_lib.samplers.loops  # noqa: F401
    except (ImportError, OSError, ValueError):  # or a NumPy, libc or setting that does not suit it
        return False
    return not config.DISABLE_JIT


def convolve_points(features: Tensor, points: Tensor, kernel: Tensor) -> Tensor:
    """The same for taps that no theta describes, as of a deformable convolution.

    Args:
        points: (B, L, K * K, 2) as (x, y) in cells.

    Returns:
        (B, L, out).
    """
    if choose_sampler(features) == "grid_sample":
        return _grid_sample(features, points, kernel)
    # each point is a location of its own, with one tap that its theta moves there
    theta = F.pad(points.flatten(1, 2).unsqueeze(-1), (2, 0)).flatten(2)
    nowhere = points.new_zeros(theta.shape[1], 2)
    return _loops(features, theta, nowhere, points.new_tensor([[0.0, 0.0, 1.0]]), kernel)


def _by_grid_sample(features: Tensor, theta: Tensor, window: Window, kernel: Tensor) -> Tensor:
    points = sampling_points(theta, window, (features.shape[2], features.shape[3]))
    return _grid_sample(features, points, kernel)


def _grid_sample(features: Tensor, points: Tensor, kernel: Tensor) -> Tensor:
    """`grid_sample` for all locations at once."""
    height, width = features.shape[2:]
    # grid_sample makes NaN of a point that is infinitely far away; here it reads zeros
    x, y = points[..., 0].clamp(-2, width + 1), points[..., 1].clamp(-2, height + 1)
    # sizes as numbers, not as a tensor: a trace would keep the first map's
    grid = torch.stack([(2 * x + 1) / width, (2 * y + 1) / height], dim=-1) - 1
    # in the points' precision: bfloat16 would move them by parts of a cell
    values = F.grid_sample(features.to(grid.dtype), grid, align_corners=False)  # (B, C, L, T)
    values = values.permute(0, 2, 3, 1).to(features.dtype, memory_format=torch.contiguous_format)
    result = F.linear(values.flatten(2), kernel)
    # on a GPU grid_sample reads zeros at NaN
    return result + (0 * (x + y)).detach().sum(dim=2, keepdim=True).to(result.dtype)


def _by_loops(features: Tensor, theta: Tensor, window: Window, kernel: Tensor) -> Tensor:
    height, width = features.shape[2:]
    centres = window.centres((height, width), features.device).flatten(0, 1)
    taps = F.pad(window.taps(features.device), (0, 1), value=1.0) * (window.extent / 2)
    return _loops(features, theta.flatten(1, 2).flatten(2), centres, taps, kernel)


@torch.compiler.disable  # it would follow numba into its compiler
def _loops(
    features: Tensor, theta: Tensor, centres: Tensor, taps: Tensor, kernel: Tensor
) -> Tensor:
    """The compiled loops, in float32 at least: bfloat16 would move points by parts of a cell.

    Args:
        theta: (B, L, 6); theta, centres and taps as of `loops.sample`.

    Raises:
        ValueError: the map is not on a CPU.
    """
    if features.device.type != "cpu":
        raise ValueError(f"sampler 'loops' needs a map on a CPU, not on {features.device}")
    narrow = features.dtype
    if torch.is_autocast_enabled("cpu") and narrow != torch.float64:  # which autocast leaves alone
        narrow = torch.get_autocast_dtype("cpu")
    wide = torch.promote_types(torch.promote_types(narrow, theta.dtype), torch.float32)
    places = [tensor.to(wide) for tensor in (theta.contiguous(), centres, taps)]
    return _ConvolveLoops.apply(features, *places, kernel.to(wide), narrow)


class _ConvolveLoops(torch.autograd.Function):
    """The compiled loops and the matrix product, a few images at a time.

    The samples are many times as large as the map. They are not all there at once: a buffer small
    enough for the cache holds those of a few images (one per thread at least); the backward pass
    draws them again, where their gradient was. The buffer is made once, because fresh memory is
    dear: the operating system hands it out page by page. For the same reason map and output keep
    their type: only what is in the buffers is float32.

    For a map in bfloat16 the product itself rounds what it multiplies, while it reads it: a copy
    of the samples would take longer than the product. (Autocast makes that copy, forwards.)
    """

    @staticmethod
    def forward(features, theta, centres, taps, kernel, narrow):  # type: ignore[no-untyped-def]
        locations = theta.shape[1] * len(taps) * features.shape[1] // kernel.shape[1]
        outputs = kernel.new_empty(len(theta), locations, len(kernel), dtype=narrow)
        with _products(narrow):
            for images, cells, samples in _in_chunks(features, theta, taps):
                _run_loops("sample", cells, theta[images], centres, taps, samples)
                rows = samples.view(-1, kernel.shape[1])
                outputs[images] = torch.mm(rows, kernel.T).view(len(cells), locations, -1)
        return outputs

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        *tensors, ctx.narrow = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def vmap(*_):  # type: ignore[no-untyped-def]
        raise RuntimeError(ONE_DERIVATIVE)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled():  # create_graph=True, and always in `torch.func`
            raise RuntimeError(ONE_DERIVATIVE)
        features, theta, centres, taps, kernel = ctx.saved_tensors
        d_features, d_theta = torch.empty_like(features), torch.empty_like(theta)
        d_kernel, d_cells = torch.zeros_like(kernel), None
        with _products(ctx.narrow):
            for images, cells, samples in _in_chunks(features, theta, taps):
                coming = gradient[images].flatten(0, 1).to(kernel.dtype)  # (b * L, out)
                rows = samples.view(-1, kernel.shape[1])
                torch.mm(coming, kernel, out=rows)  # the gradient of the samples
                d_cells = torch.empty_like(cells) if d_cells is None else d_cells[: len(cells)]
                arrays = cells, theta[images], centres, taps, samples
                _run_loops("spread", *arrays, d_cells.zero_(), d_theta[images])
                d_kernel.addmm_(coming.T, rows)
                d_features[images] = d_cells[:, 1:-1, 1:-1].permute(0, 3, 1, 2)
        return d_features, d_theta, None, None, d_kernel, None


class _Bfloat16Products(AbstractContextManager):
    """Lets matrix products of float32 round to bfloat16 what they read.

    The setting belongs to the process: the first thread inside changes it and the last one out
    puts it back.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.before = threading.Lock(), 0, ""

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.before = _swap_precision("bf16")
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                _swap_precision(self.before)


def _swap_precision(precision: str) -> str:
    """Set how products of float32 round on the CPU; returns what was set before."""
    products = getattr(torch.backends.mkldnn, "matmul", None)
    if products is not None:
        before, products.fp32_precision = products.fp32_precision, precision
        return before
    before = torch.get_float32_matmul_precision()  # up to PyTorch 2.8
    torch.set_float32_matmul_precision("medium" if precision == "bf16" else precision)
    return before


_bfloat16_products = _Bfloat16Products()


def _products(narrow: torch.dtype) -> AbstractContextManager:
    return _bfloat16_products if narrow == torch.bfloat16 else nullcontext()


def _in_chunks(
    features: Tensor, theta: Tensor, taps: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Parts of the batch: which images, their cells with a rim, and room for (b, L, T, C) samples.

    The next part overwrites the room.
    """
    batch, channels, height, width = features.shape
    shape = (theta.shape[1], len(taps), channels)
    an_image = prod(shape) * theta.element_size()
    step = max(CACHE_BYTES // max(an_image, 1), torch.get_num_threads())
    step = max(min(step, batch), 1)  # a batch may be empty, as of a convolution
    all_cells = theta.new_zeros(step, height + 2, width + 2, channels)
    all_samples = theta.new_empty(step, *shape)
    for start in range(0, batch, step):
        images = slice(start, min(start + step, batch))
        count = images.stop - start
        cells = all_cells[:count]
        cells[:, 1:-1, 1:-1] = features[images].permute(0, 2, 3, 1)  # the rim stays zero
        yield images, cells, all_samples[:count]


def _run_loops(name: str, *tensors: Tensor) -> None:
    """Call a function of `cstn_lib.samplers.loops` with tensors that share their memory."""
    from cstn_lib.samplers import loops  # importing numba takes longer than many a script

    getattr(loops, name)(*(tensor.numpy() for tensor in tensors), torch.get_num_threads())


SAMPLERS: dict[str, Sampler] = {"loops": _by_loops, "grid_sample": _by_grid_sample}
