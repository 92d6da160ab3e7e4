"""ADL: the two maps against loops, and how often each is taken."""

from __future__ import annotations

import math

import pytest
import torch

from cstn_lib.baselines import ADL, adl
from cstn_lib.baselines.adl import AttentionDropout
from cstn_lib.config import ModelConfig


@pytest.mark.parametrize(("rate", "dropping"), [(1.0, True), (0.0, False)])
def test_both_maps_against_loops(monkeypatch, rate, dropping):
    monkeypatch.setattr(adl, "DROP_RATE", rate)
    features = torch.rand(3, 5, 4, 6)
    result = AttentionDropout().train()(features)
    for i in range(3):
        attention = [[sum(features[i, :, y, x].tolist()) / 5 for x in range(6)] for y in range(4)]
        strongest = max(map(max, attention))
        for y in range(4):
            for x in range(6):
                if dropping:
                    factor = 0.0 if attention[y][x] >= 0.9 * strongest else 1.0
                else:
                    factor = 1 / (1 + math.exp(-attention[y][x]))
                assert torch.allclose(result[i, :, y, x], factor * features[i, :, y, x])


def test_how_often_it_drops():
    """Batch by batch, three times of four."""
    torch.manual_seed(0)
    layer, features = AttentionDropout().train(), torch.rand(1, 4, 5, 5)
    dropped = sum(bool((layer(features) == 0).any()) for _ in range(400))
    assert 0.69 < dropped / 400 < 0.81


def test_nothing_happens_at_test_time():
    features = torch.rand(2, 4, 5, 5)
    assert AttentionDropout().eval()(features) is features
    torch.manual_seed(0)
    model = ADL(ModelConfig(num_classes=3, weights="none")).eval()
    images = torch.rand(2, 3, 40, 40)
    expected = model.classifier(model.backbone(model.normalize(images))["5"])
    assert torch.equal(model(images).maps, expected)


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_where_it_stands(backbone):
    """Behind the stages of levels 4 and 5."""
    torch.manual_seed(0)
    model = ADL(ModelConfig(num_classes=3, weights="none", backbone=backbone)).train()
    shapes = []
    model.dropout.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    model(torch.rand(2, 3, 64, 64))
    assert [shape[1] for shape in shapes] == [model.backbone.widths[level] for level in "45"]
