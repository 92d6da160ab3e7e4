"""The global STN: its box is what it cuts out."""

from __future__ import annotations

import pytest
import torch

from cstn_lib.baselines import GlobalSTN
from cstn_lib.baselines.stn import _sampled
from cstn_lib.config import ModelConfig
from cstn_lib.geometry import identity_theta


@pytest.fixture
def model() -> GlobalSTN:
    torch.manual_seed(0)
    return GlobalSTN(ModelConfig(num_classes=3, weights="none")).eval()


def fix_theta(model: GlobalSTN, change: list[float]) -> None:
    """Make the localization network say the identity plus `change`, whatever it sees."""
    model.localization.register_forward_hook(
        lambda module, inputs, output: torch.tensor(change).expand_as(output)
    )


def test_starts_at_the_identity(model: GlobalSTN):
    images = torch.rand(2, 3, 40, 40)
    moved, still = model(images), model(images, transform=False)
    for output in (moved, still):
        assert torch.equal(output.thetas[0], torch.eye(2, 3).expand(2, 1, 1, 2, 3))
        assert output.boxes.tolist() == [[[0, 0, 1, 1]]] * 2
        assert output.default_boxes.tolist() == [[0, 0, 1, 1]]
    assert torch.allclose(moved.scores[0], still.scores[0], atol=1e-4)


def test_starts_at_its_first_frame():
    """The centred part of the image, in and after the warm-up; what is learned is added to it."""
    torch.manual_seed(0)
    model = GlobalSTN(ModelConfig(num_classes=3, weights="none", first_frame=0.65)).eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.rand(2, 3, 40, 40)
    theta = torch.tensor([[0.65, 0, 0], [0, 0.65, 0]])
    outputs = [model(images), model(images, transform=False)]
    for output in outputs:
        assert torch.allclose(output.thetas[0], theta.expand(2, 1, 1, 2, 3))
        frame = torch.tensor([0.175, 0.175, 0.825, 0.825])
        assert torch.allclose(output.boxes, frame.expand(2, 1, 4))
    assert torch.allclose(outputs[0].scores[0], outputs[1].scores[0], atol=1e-4)
    cut_out = _sampled(model.normalize(images), theta.expand(2, 2, 3))
    for at in (1, 3):  # each time the localization network reads the whole image first
        assert torch.equal(seen[at - 1], model.normalize(images))
        assert torch.allclose(seen[at], cut_out, atol=1e-5)
    fix_theta(model, [-0.15, 0, 0.5, 0, -0.15, 0])
    moved = torch.tensor([[[0.5, 0.25, 1.0, 0.75]]])
    assert torch.allclose(model(images).boxes, moved.expand(2, 1, 4), atol=1e-6)


def test_the_box_is_what_is_sampled(model: GlobalSTN):
    """A theta that frames a 20 x 20 quarter: the backbone sees it, enlarged."""
    fix_theta(model, [-0.5, 0, 0.5, 0, -0.5, -0.5])  # half the size, to the upper right
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.rand(1, 3, 40, 40)
    output = model(images)
    assert torch.allclose(output.boxes, torch.tensor([[[0.5, 0.0, 1.0, 0.5]]]))
    quarter = model.normalize(images)[:, :, :20, 20:]
    enlarged = torch.nn.functional.interpolate(quarter, (40, 40), mode="bilinear")
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # rims see beyond the quarter
    assert torch.allclose(seen[1][inner], enlarged[inner], atol=1e-5)
    pooled = model.backbone(seen[1])["5"].mean(dim=(2, 3))
    expected = pooled @ model.classifier.weight.flatten(1).T + model.classifier.bias
    assert torch.allclose(output.scores[0].flatten(1), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "box"),
    [
        ([-0.5, 0, 0, 0, 0, 0], [0.25, 0, 0.75, 1]),
        ([0, 0, 0.4, 0, 0, 0], [0.2, 0, 1, 1]),
        ([-1, 0.5, 0, 0.5, -1, 0], [0.25, 0.25, 0.75, 0.75]),
        ([1, 0, 0, 0, 1, 0], [0, 0, 1, 1]),
    ],
    ids=["narrower", "shifted to the right, clipped", "a turn by 90 degrees", "larger, clipped"],
)
def test_boxes_by_hand(model: GlobalSTN, change, box):
    fix_theta(model, change)
    assert torch.allclose(model(torch.rand(1, 3, 40, 40)).boxes, torch.tensor([[box]]).float())


def test_autocast_does_not_move_the_grid():
    images = torch.rand(2, 3, 40, 48)
    with torch.autocast("cpu", torch.bfloat16):
        seen = _sampled(images, identity_theta().expand(2, 2, 3))
    assert torch.allclose(seen, images, atol=1e-4)


def test_any_image_size(model: GlobalSTN):
    assert model(torch.rand(1, 3, 48, 64)).boxes.shape == (1, 1, 4)


def test_the_warm_up_does_not_ask_the_localization_network(model: GlobalSTN):
    fix_theta(model, [1.0] * 6)
    images = torch.rand(2, 3, 40, 40)
    assert model(images, transform=False).boxes.tolist() == [[[0, 0, 1, 1]]] * 2
