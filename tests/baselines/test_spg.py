"""SPG: its masks against loops, and who teaches whom."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cstn_lib.baselines import SPG, spg
from cstn_lib.baselines.spg import Thresholds, guidance, guided_loss
from cstn_lib.config import ModelConfig, TrainingConfig

LABELS = torch.tensor([2, 0])


@pytest.mark.parametrize("thresholds", [(0.7, 0.05), (0.5, 0.05), (0.7, 0.1)])
@pytest.mark.parametrize("strongest", [1.0, 0.6, 0.05])
def test_guidance_against_a_loop(thresholds, strongest):
    high, low = thresholds
    attention = strongest * torch.rand(4, 6, 7)
    mask = guidance(attention, Thresholds(high, low))
    for i in range(4):
        values = attention[i].flatten().tolist()
        limit = high if max(values) > high else 0.7 * max(values)
        for value, marked in zip(values, mask[i].flatten().tolist(), strict=True):
            expected = 0 if value < low else 1 if value > limit else -1
            assert marked == expected


def test_guided_loss_against_a_loop():
    logits, mask = torch.randn(2, 3, 4), torch.randint(-1, 2, (2, 3, 4)).float()
    terms = []
    for logit, marked in zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        if marked >= 0:
            terms.append(-math.log(p if marked else 1 - p))
    assert guided_loss(logits, mask).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_nothing_marked_costs_nothing():
    loss = guided_loss(torch.randn(1, 2, 2, requires_grad=True), -torch.ones(1, 2, 2))
    assert loss.item() == 0
    loss.backward()


@pytest.fixture
def model() -> SPG:
    torch.manual_seed(0)
    return SPG(ModelConfig(num_classes=3, weights="none"))


def test_who_teaches_whom(model: SPG, monkeypatch):
    """A teaches B2, B2 teaches B1, their mean teaches C, with the thresholds of each."""
    output = model(torch.rand(2, 3, 40, 40))
    assert output.b1.shape == output.b2.shape == output.c.shape == (2, 10, 10)
    taught: list[tuple[Tensor, Thresholds]] = []
    learned: list[tuple[Tensor, Tensor]] = []

    def watched_guidance(attention: Tensor, thresholds: Thresholds) -> Tensor:
        taught.append((attention, thresholds))
        return guidance(attention, thresholds)

    def watched_loss(logits: Tensor, mask: Tensor) -> Tensor:
        learned.append((logits, mask))
        return guided_loss(logits, mask)

    monkeypatch.setattr(spg, "guidance", watched_guidance)
    monkeypatch.setattr(spg, "guided_loss", watched_loss)
    terms = model.losses(output, LABELS, TrainingConfig())
    attention, b2, both = (attention for attention, _ in taught)
    own = torch.nn.functional.interpolate(output.maps, (10, 10), mode="bilinear")
    for i, label in enumerate(LABELS):
        low, high = own[i, label].min(), own[i, label].max()
        assert torch.allclose(attention[i], (own[i, label] - low) / (high - low), atol=1e-5)
    masks = [branch.sigmoid() for branch in (output.b1, output.b2)]
    lows, highs = (
        [f(mask, (1, 2), keepdim=True) for mask in masks] for f in (torch.amin, torch.amax)
    )
    ours = [(m - low) / (high - low) for m, low, high in zip(masks, lows, highs, strict=True)]
    assert torch.allclose(b2, ours[1], atol=1e-5)
    assert torch.allclose(both, (ours[0] + ours[1]) / 2, atol=1e-5)
    assert [tuple(t) for _, t in taught] == [(0.7, 0.05), (0.5, 0.05), (0.7, 0.1)]
    for (logits, _), branch in zip(learned, (output.b2, output.b1, output.c), strict=True):
        assert logits is branch
    guided = sum(guided_loss(logits, mask) for logits, mask in learned)
    assert torch.allclose(terms["loss_guided"], guided)
    assert torch.allclose(terms["loss"], terms["loss_cls"] + guided)


def test_teachers_do_not_learn_from_their_pupils(model: SPG):
    """Only the pupil: the mask of C moves neither B1 nor B2, that of B2 not the classifier."""
    output = model(torch.rand(2, 3, 40, 40))
    logits = [output.b1, output.b2, output.c, output.maps]
    for value in logits:
        value.retain_grad()
    both = (output.b1.sigmoid() + output.b2.sigmoid()) / 2
    guided_loss(output.c, guidance(both, spg.FOR_C)).backward()
    assert output.c.grad is not None
    assert output.b1.grad is output.b2.grad is output.maps.grad is None


def test_sizes_on_a_resnet():
    """B1 reads stride 8, B2 stride 16, C stride 32; all masks have the size of the first."""
    torch.manual_seed(0)
    model = SPG(ModelConfig(num_classes=3, weights="none", backbone="resnet18")).eval()
    output = model(torch.rand(1, 3, 64, 96))
    assert output.b1.shape == output.b2.shape == output.c.shape == (1, 8, 12)
    assert output.maps.shape == (1, 3, 2, 3)
