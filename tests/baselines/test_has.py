"""HaS: which pixels are hidden, how often, and by what."""

from __future__ import annotations

import pytest
import torch

from cstn_lib.baselines import HaS, has
from cstn_lib.config import ModelConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize("share", has.PATCH_SHARES[1:])
def test_hidden_pixels_are_whole_patches(monkeypatch, share):
    monkeypatch.setattr(has, "PATCH_SHARES", (share,))
    side = round(80 * share)
    hidden = has.hidden_pixels(50, (80, 80), CPU)
    assert hidden.shape == (50, 80, 80)
    for top in range(0, 80, side):
        for left in range(0, 80, side):
            patch = hidden[:, top : top + side, left : left + side].flatten(1)
            assert (patch.all(dim=1) | ~patch.any(dim=1)).all()
    assert 0.45 < hidden[:, ::side, ::side].float().mean() < 0.55, "half of the patches"


def test_sizes_are_drawn_image_by_image():
    """Also the size 0, that of a whole image: a fifth of the images."""
    torch.manual_seed(0)
    hidden = has.hidden_pixels(500, (56, 56), CPU)
    whole = ~hidden.flatten(1).any(dim=1)
    assert 0.15 < whole.float().mean() < 0.25
    # where neighbours differ a patch ends: at multiples of 4, 8, 11 or 14 pixels
    ends = (hidden[:, :, 1:] != hidden[:, :, :-1]).any(dim=1)
    found = {
        step
        for steps in ends
        if steps.any()
        for step in [
            max(s for s in (4, 8, 11, 14) if all((i + 1) % s == 0 for i in steps.nonzero()))
        ]
    }
    assert found == {4, 8, 11, 14}


def test_hidden_pixels_take_the_mean_of_the_training_images(monkeypatch):
    torch.manual_seed(0)
    model = HaS(ModelConfig(num_classes=3, weights="none")).train()
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    masks = []

    def watched(*arguments: object) -> torch.Tensor:
        masks.append(original(*arguments))
        return masks[-1]

    original = has.hidden_pixels
    monkeypatch.setattr(has, "hidden_pixels", watched)
    batches = [torch.rand(4, 3, 40, 40) for _ in range(3)]
    for batch in batches:
        model(batch)
    means = [model.normalize(batch).mean(dim=(0, 2, 3)) for batch in batches]
    assert torch.allclose(model.mean_colour.flatten(), sum(means) / 3, atol=1e-6)
    for step, batch in enumerate(batches):
        expected = model.normalize(batch)
        colour = sum(means[: step + 1]) / (step + 1)
        for image in range(4):
            expected[image][:, masks[step][image]] = colour[:, None]
        assert masks[step].any()
        assert torch.allclose(seen[step], expected, atol=1e-6)


def test_nothing_is_hidden_at_test_time():
    torch.manual_seed(0)
    model = HaS(ModelConfig(num_classes=3, weights="none")).eval()
    images = torch.rand(2, 3, 40, 40)
    features = model.backbone(model.normalize(images))["5"]
    assert torch.equal(model(images).maps, model.classifier(features))
    assert model.batches == 0
