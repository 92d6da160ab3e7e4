"""CAM: the map is the score, cell by cell."""

from __future__ import annotations

import torch

from cstn_lib.baselines import CAM
from cstn_lib.config import ModelConfig, TrainingConfig
from cstn_lib.evaluation.predictions import describe


def test_equation_of_the_paper():
    """Pooling before the classifier gives the mean of the maps after it."""
    torch.manual_seed(0)
    model = CAM(ModelConfig(num_classes=3, weights="none")).eval()
    images = torch.rand(2, 3, 80, 80)
    output = model(images)
    features = model.backbone(model.normalize(images))["5"]
    weight, bias = model.classifier.weight.flatten(1), model.classifier.bias
    pooled = features.mean(dim=(2, 3)) @ weight.T + bias
    assert torch.allclose(output.logits, pooled, atol=1e-5)
    for y in range(10):
        for x in range(10):
            cell = features[:, :, y, x] @ weight.T + bias
            assert torch.allclose(output.maps[:, :, y, x], cell, atol=1e-5)
    labels = torch.tensor([2, 0])
    loss = model.losses(output, labels, TrainingConfig())["loss"]
    log_class = pooled.log_softmax(1)
    assert torch.allclose(loss, -(log_class[0, 2] + log_class[1, 0]) / 2, atol=1e-5)
    maps = describe(output, labels)["score_map"]
    assert torch.equal(maps[0], output.maps[0, 2]) and torch.equal(maps[1], output.maps[1, 0])
