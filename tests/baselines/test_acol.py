"""ACoL against loops over cells."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cstn_lib.baselines import ACoL
from cstn_lib.config import ModelConfig, TrainingConfig

LABELS = torch.tensor([2, 0, 1])


@pytest.fixture
def model() -> ACoL:
    torch.manual_seed(0)
    return ACoL(ModelConfig(num_classes=3, weights="none"))


def in_range(map_: Tensor) -> Tensor:
    return (map_ - map_.min()) / (map_.max() - map_.min())


@pytest.mark.parametrize("labels", [LABELS, None], ids=["training", "test"])
def test_erasing_and_fusing(model: ACoL, labels):
    images = torch.rand(3, 3, 40, 40)
    model.eval()  # batch norm fixed: the features can be computed once more
    output = model(images, labels=labels)
    features = model.backbone(model.normalize(images))["5"]
    first = model.classifier(features)
    assert torch.allclose(output.logits, first.mean(dim=(2, 3)), atol=1e-5)
    remaining = features.clone()
    for i in range(3):
        c = output.logits[i].argmax() if labels is None else labels[i]
        map_ = in_range(first[i, c])
        for y in range(5):
            for x in range(5):
                assert output.erased[i, y, x] == (map_[y, x] >= 0.6)
                if map_[y, x] >= 0.6:
                    remaining[i, :, y, x] = 0
    assert output.erased.any() and not output.erased.all()
    second = model.second_classifier(remaining)
    assert torch.allclose(output.erased_logits, second.mean(dim=(2, 3)), atol=1e-5)
    for i in range(3):
        for c in range(3):
            fused = torch.maximum(in_range(first[i, c]), in_range(second[i, c]))
            assert torch.allclose(output.maps[i, c], fused, atol=1e-4)


def test_loss_is_the_sum_of_both(model: ACoL):
    output = model(torch.rand(3, 3, 40, 40), labels=LABELS)
    terms = model.losses(output, LABELS, TrainingConfig())
    both = F.cross_entropy(output.logits, LABELS) + F.cross_entropy(output.erased_logits, LABELS)
    assert torch.allclose(terms["loss"], both)
    assert torch.equal(terms["loss"], terms["loss_cls"] + terms["loss_erased"])


def test_the_second_classifier_does_not_teach_the_first(model: ACoL):
    """What is erased is decided, not learned: no gradient passes the mask."""
    output = model(torch.rand(3, 3, 40, 40), labels=LABELS)
    F.cross_entropy(output.erased_logits, LABELS).backward()
    assert all(p.grad is None for p in model.classifier.parameters())
    assert all(p.grad is not None for p in model.second_classifier.parameters())
