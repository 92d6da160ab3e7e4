"""Deformable convolution in CSTN's place: equation and boxes against loops over taps."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import deform_conv2d

from cstn_lib.baselines.deformable import (
    DeformableConv2d,
    DeformableLocalizer,
    boxes_of_offsets,
)
from cstn_lib.config import LevelConfig, ModelConfig
from cstn_lib.geometry import Window, default_boxes

CONFIG = ModelConfig(
    num_classes=3,
    weights="none",
    levels=(LevelConfig("4", 3, dilation=2), LevelConfig("5", 3)),
    channels=8,
)


def bilinear(map_: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """(C,) of a (C, H, W) map; zero outside."""
    total = torch.zeros(map_.shape[0])
    for row in range(map_.shape[1]):
        for column in range(map_.shape[2]):
            weight = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
            total += weight * map_[:, row, column]
    return total


@pytest.mark.parametrize("dilation", [1, 2])
def test_equation_and_hull_against_loops(dilation):
    torch.manual_seed(0)
    layer = DeformableConv2d(3, 2, 3, dilation=dilation)
    nn.init.normal_(layer.offsets.weight, std=0.2)
    x = torch.randn(1, 3, 7, 6)
    with torch.no_grad():
        features, offsets = layer(x)
    window = Window(3, dilation=dilation)
    height, width = window.output_size((7, 6))
    assert features.shape == (1, 2, height, width) and offsets.shape == (1, 18, height, width)
    boxes = boxes_of_offsets(offsets, window, (7, 6))
    assert boxes.shape == (1, height, width, 4)
    for row in range(height):
        for column in range(width):
            result = layer.bias.detach().clone()
            ys, xs = [], []
            for tap in range(9):
                down, right = offsets[0, 2 * tap : 2 * tap + 2, row, column].tolist()
                ys.append(row + tap // 3 * dilation + down)
                xs.append(column + tap % 3 * dilation + right)
                kernel = layer.weight[:, :, tap // 3, tap % 3].detach()
                result += kernel @ bilinear(x[0], ys[-1], xs[-1])
            assert torch.allclose(features[0, :, row, column], result, atol=1e-4)
            hull = torch.tensor([min(xs) / 5, min(ys) / 6, max(xs) / 5, max(ys) / 6]).clamp(0, 1)
            assert torch.allclose(boxes[0, row, column], hull, atol=1e-5)


def test_the_operator_of_torchvision_gives_the_same():
    """Values and gradients: a CPU and a GPU train the same network."""
    torch.manual_seed(0)
    layer = DeformableConv2d(4, 5, 3, dilation=2)
    nn.init.normal_(layer.offsets.weight, std=0.2)
    x = torch.randn(2, 4, 9, 8, requires_grad=True)
    ours, offsets = layer(x)
    theirs = deform_conv2d(x, offsets, layer.weight, layer.bias, dilation=2)
    assert torch.allclose(ours, theirs, atol=1e-5)
    inputs = (x, offsets, layer.weight, layer.bias)
    grown = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, grown, retain_graph=True),
        torch.autograd.grad(theirs, inputs, grown),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-4)


def test_offsets_are_read_through_another_convolution():
    """Of the map's size, so that the offsets' own convolution sees whole windows of it."""
    torch.manual_seed(0)
    layer = DeformableConv2d(4, 5, 3, stride=2, dilation=2, hidden_channels=6)
    nn.init.normal_(layer.offsets.weight, std=0.2)
    x = torch.randn(2, 4, 9, 8)
    _, offsets = layer(x)
    read = nn.functional.conv2d(x, layer.read.weight, layer.read.bias, padding=2, dilation=2)
    assert read.shape == (2, 6, 9, 8)
    expected = nn.functional.conv2d(read.relu(), layer.offsets.weight, stride=2, dilation=2)
    assert offsets.shape == (2, 2 * 3**2, 3, 2)
    assert torch.allclose(offsets, expected, atol=1e-5)


def test_starts_as_an_ordinary_convolution():
    torch.manual_seed(0)
    layer = DeformableConv2d(3, 2, 5)
    x = torch.randn(2, 3, 8, 8)
    features, offsets = layer(x)
    assert not offsets.any()
    plain = nn.functional.conv2d(x, layer.weight, layer.bias)
    assert torch.allclose(features, plain, atol=1e-5)
    window = Window(5)
    boxes = boxes_of_offsets(offsets, window, (8, 8))
    assert torch.allclose(boxes, default_boxes(window, (8, 8)).expand_as(boxes), atol=1e-6)


def test_the_network():
    torch.manual_seed(0)
    model = DeformableLocalizer(CONFIG).eval()
    images = torch.rand(2, 3, 40, 40)
    moved, still = model(images), model(images, transform=False)
    for a, b in zip(moved.scores, still.scores, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    for layer in model.layers.values():
        nn.init.normal_(layer.offsets.weight, std=0.1)
    moved = model(images)
    assert not torch.allclose(moved.boxes, moved.default_boxes.expand_as(moved.boxes), atol=1e-3)
    still = model(images, transform=False)
    assert torch.equal(still.boxes, still.default_boxes.expand_as(still.boxes))
    assert not moved.boxes.requires_grad, "no loss reads boxes: the supervision is weak"
    named = [
        name for name, _ in model.named_parameters() if ".offsets." in name or ".read." in name
    ]
    found = {id(p) for p in model.localization_parameters()}
    assert found == {id(model.get_parameter(name)) for name in named}
    # of each of two levels: what reads the map has a bias, what gives the offsets none
    assert len(named) == 2 * 3
