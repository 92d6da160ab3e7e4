"""Theta algebra against plain loops, `affine_grid` and the paper's box sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from cstn_lib.geometry import (
    Window,
    boxes_of_theta,
    default_boxes,
    identity_theta,
    sampling_points,
)

# odd, even and single kernels; every argument of a convolution; a map that is not square
WINDOWS = [
    (Window(3), (5, 7)),
    (Window(4), (6, 5)),
    (Window(1), (3, 2)),
    (Window(3, stride=2), (7, 6)),
    (Window(3, padding=1), (4, 5)),
    (Window(2, padding=1, stride=3), (6, 6)),
    (Window(3, dilation=2), (6, 8)),
    (Window(2, dilation=3, stride=2, padding=2), (5, 6)),
    (Window(7), (10, 10)),
]


@st.composite
def windows(draw: st.DrawFn) -> tuple[Window, tuple[int, int]]:
    """A window and a map of at least 2 x 2 cells that it fits."""
    window = Window(
        draw(st.integers(1, 5)),
        draw(st.integers(1, 3)),
        draw(st.integers(0, 3)),
        draw(st.integers(1, 3)),
    )
    least = max(2, window.extent + 1 - 2 * window.padding)
    return window, (least + draw(st.integers(0, 4)), least + draw(st.integers(0, 4)))


def random_theta(window: Window, size: tuple[int, int], seed: int, spread: float = 0.8):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, *window.output_size(size), 2, 3, generator=generator)
    return (torch.eye(2, 3) + spread * noise).double()


def loop_points(theta: torch.Tensor, window: Window, size: tuple[int, int]) -> torch.Tensor:
    """Every tap of every location, from the definition: first cell of the window, centre, theta."""
    k, half = window.kernel_size, (window.kernel_size - 1) / 2 * window.dilation
    rows = []
    for image in theta.tolist():
        for i, line in enumerate(image):
            for j, entries in enumerate(line):
                centre_x = j * window.stride - window.padding + half
                centre_y = i * window.stride - window.padding + half
                for m in range(k):
                    for n in range(k):
                        u = -1 + 2 * n / (k - 1) if k > 1 else 0
                        v = -1 + 2 * m / (k - 1) if k > 1 else 0
                        x = entries[0][0] * u + entries[0][1] * v + entries[0][2]
                        y = entries[1][0] * u + entries[1][1] * v + entries[1][2]
                        rows.append((centre_x + half * x, centre_y + half * y))
    return torch.tensor(rows, dtype=torch.float64).view(len(theta), -1, k * k, 2)


@pytest.mark.parametrize(("window", "size"), WINDOWS)
def test_sampling_points(window, size):
    theta = random_theta(window, size, seed=1)
    points = sampling_points(theta, window, size)
    assert points.dtype == torch.float64
    expected = loop_points(theta, window, size)
    assert points.shape == expected.shape
    assert torch.allclose(points, expected, atol=1e-5)


@pytest.mark.parametrize(("window", "size"), WINDOWS)
def test_identity_samples_the_cells_of_the_convolution(window, size):
    """At the identity the taps are those of `conv2d`: whole cells, row by row."""
    height, width = window.output_size(size)
    theta = identity_theta().expand(1, height, width, 2, 3)
    points = sampling_points(theta, window, size)[0]
    expected = [
        [
            (
                j * window.stride + n * window.dilation - window.padding,
                i * window.stride + m * window.dilation - window.padding,
            )
            for m in range(window.kernel_size)
            for n in range(window.kernel_size)
        ]
        for i in range(height)
        for j in range(width)
    ]
    assert torch.allclose(points, torch.tensor(expected, dtype=torch.float32), atol=1e-5)


@pytest.mark.parametrize(("window", "size"), WINDOWS)
def test_output_size_is_that_of_conv2d(window, size):
    conv = torch.nn.Conv2d(1, 1, window.kernel_size, window.stride, window.padding, window.dilation)
    assert window.output_size(size) == tuple(conv(torch.zeros(1, 1, *size)).shape[2:])
    assert window.centres(size).shape == (*window.output_size(size), 2)


@pytest.mark.parametrize("kernel_size", [2, 3, 7])
def test_theta_means_what_affine_grid_means(kernel_size):
    """One location over the whole map: theta is that of `affine_grid`, x first, u along a row."""
    window, size = Window(kernel_size), (kernel_size, kernel_size)
    theta = random_theta(window, size, seed=2)
    grid = F.affine_grid(theta[:, 0, 0], [2, 1, *size], align_corners=True)  # in [-1, 1]
    cells = (grid + 1) / 2 * (kernel_size - 1)
    points = sampling_points(theta, window, size).view(2, kernel_size, kernel_size, 2)
    assert torch.allclose(points, cells, atol=1e-6)


def test_each_entry_of_theta():
    """In half extents, around the centre: size, shear and shift along x, then along y."""
    window, size = Window(5), (9, 9)  # half extent: 2 cells; centre of location (1, 3): (5, 3)

    def box(*entries: float) -> list[float]:
        theta = torch.eye(2, 3).repeat(1, 5, 5, 1, 1)
        theta[0, 1, 3] = torch.tensor(entries).view(2, 3)
        return (boxes_of_theta(theta, window, size)[0, 1, 3] * 8).tolist()

    assert box(1, 0, 0, 0, 1, 0) == pytest.approx([3, 1, 7, 5])
    assert box(0.5, 0, 0, 0, 1, 0) == pytest.approx([4, 1, 6, 5])
    assert box(1, 0, 0, 0, 0.25, 0) == pytest.approx([3, 2.5, 7, 3.5])
    assert box(1, 0.25, 0, 0, 1, 0) == pytest.approx([2.5, 1, 7.5, 5])
    assert box(1, 0, 0.5, 0, 1, 0) == pytest.approx([4, 1, 8, 5])
    assert box(1, 0, 0, 0, 1, -0.5) == pytest.approx([3, 0, 7, 4])
    assert box(1, 0, 1, 0, 1, 0) == pytest.approx([5, 1, 8, 5]), "clipped to the image"


@pytest.mark.parametrize(
    ("kernel_size", "cells", "pixels"), [(7, 10, 213), (13, 20, 202)], ids=["level 5", "level 4"]
)
def test_default_boxes_of_the_paper(kernel_size, cells, pixels):
    """At 320 x 320 pixels, as the authors' code has them."""
    boxes = default_boxes(Window(kernel_size), (cells, cells)) * 320
    locations = cells - kernel_size + 1
    assert boxes.shape == (locations, locations, 4)
    sides = boxes[..., 2:] - boxes[..., :2]
    assert torch.allclose(sides, torch.full_like(sides, sides[0, 0, 0].item()), atol=1e-3)
    assert int(sides[0, 0, 0]) == pixels
    assert boxes[0, 0, :2].tolist() == [0, 0]
    assert boxes[-1, -1, 2:].tolist() == pytest.approx([320, 320])
    assert boxes[0, 1, 0] > boxes[0, 0, 0] and boxes[0, 1, 1] == boxes[0, 0, 1], "x by column"


def test_default_boxes_are_the_boxes_of_the_identity():
    window, size = Window(3, stride=2, padding=1), (7, 9)
    theta = torch.eye(2, 3).expand(2, *window.output_size(size), 2, 3)
    boxes = boxes_of_theta(theta, window, size)
    assert torch.equal(boxes, default_boxes(window, size).expand_as(boxes))


@given(windows(), st.integers(0, 2**32), st.sampled_from([0.05, 0.5, 3.0]))
def test_box_is_the_hull_of_the_sampling_points(case, seed, spread):
    window, size = case
    theta = random_theta(window, size, seed, spread)
    points = sampling_points(theta, window, size)
    last = points.new_tensor([size[1] - 1, size[0] - 1])
    hull = torch.cat([points.amin(dim=2) / last, points.amax(dim=2) / last], dim=-1)
    boxes = boxes_of_theta(theta, window, size)
    assert boxes.shape == (2, *window.output_size(size), 4)
    assert torch.allclose(boxes.flatten(1, 2), hull.clamp(0, 1), atol=1e-5)
    assert (boxes >= 0).all() and (boxes <= 1).all()
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


@given(windows(), st.integers(0, 2**32))
def test_points_are_affine_in_theta(case, seed):
    """Half way between two thetas lie the points half way between theirs."""
    window, size = case
    a, b = random_theta(window, size, seed), random_theta(window, size, seed + 1)
    middle = sampling_points((a + b) / 2, window, size)
    ends = sampling_points(a, window, size) + sampling_points(b, window, size)
    assert torch.allclose(middle, ends / 2, atol=1e-9)


def test_autocast_does_not_move_points():
    theta = identity_theta() + 0.1 * torch.randn(2, 8, 8, 2, 3)
    points = sampling_points(theta, Window(13), (20, 20))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sampling_points(theta, Window(13), (20, 20)), points)


def test_a_map_without_extent_has_no_boxes():
    """Cell i of n lies at i / (n - 1): of one cell nobody can say where it is."""
    theta = torch.eye(2, 3).expand(1, 2, 6, 2, 3)
    with pytest.raises(ValueError, match="a map of 1x5 cells has no boxes"):
        boxes_of_theta(theta, Window(2, padding=1), (1, 5))


@pytest.mark.parametrize("size", [(3, 3), (9, 9)])
def test_thetas_of_another_map_have_no_boxes(size):
    theta = torch.eye(2, 3).expand(1, 6, 6, 2, 3)
    with pytest.raises(ValueError, match=r"theta has shape \(1, 6, 6, 2, 3\), expected \(B, \d"):
        boxes_of_theta(theta, Window(3), size)


def test_identity_theta():
    assert identity_theta().tolist() == [[1, 0, 0], [0, 1, 0]]
    assert identity_theta(torch.zeros(3, dtype=torch.float64)).dtype == torch.float64


def test_gradients_reach_theta():
    window, size = Window(3), (5, 5)
    theta = random_theta(window, size, seed=3, spread=0.1).requires_grad_()
    boxes_of_theta(theta, window, size).sum().backward()
    assert theta.grad.isfinite().all() and theta.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 0},
        {"kernel_size": 3, "stride": 0},
        {"kernel_size": 3, "dilation": 0},
        {"kernel_size": 3, "padding": -1},
    ],
)
def test_impossible_windows(arguments):
    with pytest.raises(ValueError, match="must be at least 1, padding at least 0"):
        Window(**arguments)


@pytest.mark.parametrize(
    ("window", "size"), [(Window(4), (3, 9)), (Window(3, dilation=2, padding=1), (9, 2))]
)
def test_a_window_larger_than_the_map(window, size):
    message = f"{window.extent + 1} cells does not fit a map of {size[0]}x{size[1]} cells"
    with pytest.raises(ValueError, match=message):
        window.output_size(size)
    with pytest.raises(ValueError, match=message):
        default_boxes(window, size)
