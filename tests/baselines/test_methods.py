"""What holds for every method: shapes, gradients, learning, and what is random."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cstn_lib.config import LevelConfig, ModelConfig, TrainingConfig
from cstn_lib.evaluation.predictions import describe
from cstn_lib.models import build_model
from cstn_lib.outputs import LocalizerOutput, ScoreMapOutput

SMALL = ModelConfig(
    num_classes=4,
    weights="none",
    levels=(LevelConfig("4", 5), LevelConfig("5", 3)),
    channels=8,
    localization_channels=4,
)
TRAINING = TrainingConfig(lambda_theta=1e-3, alpha_scale=0.1)
SCORE_MAPS = ("cam", "has", "acol", "spg", "adl")
VOTES = ("cstn", "plain", "deform", "stn")
RANDOM = ("has", "adl")
"""The methods that draw random numbers while they train."""

every_method = pytest.mark.parametrize("head", SCORE_MAPS + VOTES)


def make(head: str, seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(replace(SMALL, head=head, **options))


def images(batch: int = 8, size: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)


LABELS = torch.arange(8) % 4


def said(output: LocalizerOutput | ScoreMapOutput) -> list[Tensor]:
    """All that a network says, as tensors."""
    values = [
        v
        for name, value in vars(output).items()
        for v in (value if list is type(value) else [value])
        if name != "level_names"
    ]
    assert all(isinstance(value, Tensor) for value in values)
    return values


@pytest.mark.parametrize("head", SCORE_MAPS)
@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_shapes_of_score_maps(head, backbone):
    model = make(head, backbone=backbone).eval()
    output = model(images(2, 80))
    cells = 10 if backbone == "small" else 3
    assert output.logits.shape == (2, 4)
    assert output.maps.shape == (2, 4, cells, cells)
    columns = describe(output, LABELS[:2])
    assert columns["score_map"].shape == (2, cells, cells)
    assert columns["label"].tolist() == [0, 1]
    assert model.localization_parameters() == []


@pytest.mark.parametrize("head", ["deform", "stn"])
@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_shapes_of_votes(head, backbone):
    size = 80 if backbone == "small" else 320
    model = make(head, backbone=backbone).eval()
    output = model(images(1, size))
    sizes = [(16, 16), (8, 8)] if head == "deform" else [(1, 1)]
    locations = sum(h * w for h, w in sizes)
    assert output.sizes == sizes
    assert output.log_joint.shape == (1, 4, locations)
    assert output.boxes.shape == (1, locations, 4)
    assert output.default_boxes.shape == (locations, 4)
    assert len(output.thetas) == (1 if head == "stn" else 0)
    columns = describe(output, LABELS[:1])
    assert columns["true_box"].shape == (1, 4 * min(5, locations))
    assert len(model.localization_parameters()) > 0


@every_method
def test_gradients_reach_every_parameter(head):
    model = make(head).train()
    for _ in range(2):  # what regresses theta starts at zero and blocks the way in the first step
        model.zero_grad()
        output = model(images(), labels=LABELS)
        terms = model.losses(output, LABELS, TRAINING)
        assert next(iter(terms)) == "loss"
        assert all(term.shape == () and term.isfinite() for term in terms.values())
        terms["loss"].backward()
        torch.optim.SGD(model.parameters(), lr=1e-3).step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


@every_method
def test_losses_decrease(head):
    model = make(head).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        terms = model.losses(model(images(), labels=LABELS), LABELS, TRAINING)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        # what guides SPG gets sharper while it learns, so the loss of its guided maps may rise
        losses.append(terms["loss_cls" if head == "spg" else "loss"].item())
    first = losses[0] if head == "spg" else sum(losses[:3]) / 3
    assert sum(losses[-5:]) / 5 < 0.6 * first


@every_method
def test_training_is_random_only_where_the_method_is(head):
    outputs = []
    for seed in (0, 0, 1, 2, 3, 4, 5):
        model = make(head).train()
        torch.manual_seed(seed)
        outputs.append(said(model(images(), labels=LABELS)))
    same = [all(map(torch.equal, outputs[0], other)) for other in outputs]
    assert same[1]
    assert all(same) == (head not in RANDOM)


@every_method
def test_evaluation_is_not_random_and_needs_no_labels(head):
    model = make(head)
    model.train()(images(), labels=LABELS)  # batch norm has seen something
    model.eval()
    first, second = said(model(images())), said(model(images()))
    assert all(map(torch.equal, first, second))
    alone = said(model(images()[:1]))
    for value, together in zip(alone, first, strict=True):
        if len(together) == 8:
            assert torch.allclose(value.float(), together[:1].float(), atol=1e-4)


@every_method
def test_channels_last_changes_nothing(head):
    model = make(head).eval()
    expected = said(model(images()))
    model = model.to(memory_format=torch.channels_last)
    other = said(model(images().contiguous(memory_format=torch.channels_last)))
    for a, b in zip(expected, other, strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-4)


@every_method
def test_a_training_step_is_that_of_a_cpu(device, head):
    """On each device, with maps whose channels lie together: losses and gradients."""
    config = replace(TRAINING, alpha_scale=1.0)
    steps = []
    for where, layout in (("cpu", torch.contiguous_format), (device, torch.channels_last)):
        model = make(head).double().train().to(where, memory_format=layout)
        pixels, labels = (images() / 255).double().to(where), LABELS.to(where)
        torch.manual_seed(0)
        losses = model.losses(model(pixels, labels=labels), labels, config)
        losses["loss"].backward()
        steps.append((losses, {n: p.grad.cpu() for n, p in model.named_parameters()}))
    (expected, gradients), (found, ours) = steps
    if head in RANDOM and device != "cpu":  # each device draws its own numbers
        assert all(gradient.isfinite().all() for gradient in ours.values())
        return
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5), name
    for name, gradient in gradients.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-6), name
