"""The feature extractors every network of the project stands on (section IV-A).

Levels carry the paper's names: ``"4"`` and ``"5"`` are the last two stages of a ResNet, strides 16
and 32. The small backbones have strides 4 and 8 there, so that an 80-pixel image gives the same 20
x 20 and 10 x 10 maps as 320 pixels do in the paper.

For photographs there are pretrained ones: torchvision's ResNets, any model of timm that gives maps
at these strides, and EfficientNet-Lite0, whose weights come from the package registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
import torchvision
from torch import Tensor, nn

from cstn_lib.config import ModelConfig
from cstn_lib.pretrained import (
    LITE,
    SMALL,
    Statistics,
    load_weights,
    starting_weights,
    timm_network,
)
from cstn_lib.support.errors import InputError, unknown_name

BACKBONES = (*SMALL, "resnet18", "resnet34", "resnet50", "resnet101", LITE)
"""Besides these, ``timm:`` and the name of a model of timm, such as ``timm:resnet18.a1_in1k``."""

PYRAMID = ("4", "5")
"""The levels of the feature pyramid, from the finest to the coarsest."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def build_backbone(config: ModelConfig) -> Backbone:
    """The backbone of a configuration, loaded and partly frozen.

    Raises:
        InputError: the name is unknown or its weights cannot be had.
    """
    name = config.backbone
    if config.weights == "pretrained" and name not in SMALL:
        raise InputError(f"weights 'pretrained' belong to backbone 'small', not to {name!r}")
    if name.startswith("timm:") or name == LITE:
        backbone = _timm_backbone(name, config.weights)
    elif name not in BACKBONES:
        raise unknown_name("backbone", name, (*BACKBONES, "timm:NAME"))
    else:
        backbone = _own_backbone(name, config.weights)
    backbone.freeze(config.frozen_stages)
    return backbone


def _own_backbone(name: str, weights: str) -> Backbone:
    """A small one, or one of torchvision's."""
    state = starting_weights(name, weights)
    small = name in SMALL
    if small:
        net = small_backbone(pooled=name == "small-pooled")
        last = f"stages.{len(net.stages) - 1}."  # pooling has no weights
        if state and name == "small-pooled":
            state = {key: value for key, value in state.items() if not key.startswith(last)}
    else:
        net = torchvision.models.get_model(name, weights=None)
    if state is not None:
        classifier = {} if small else net.fc.state_dict(prefix="fc.")
        load_weights(net, {**classifier, **state}, weights)
    return net if small else resnet_backbone(net)


class Normalize(nn.Module):
    """uint8 or [0, 1] images to what a backbone expects: minus `mean`, divided by `std`.

    Args:
        mean, std: of the red, green and blue of images in [0, 1]; by default ImageNet's.
    """

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        mean, std = torch.tensor(mean), torch.tensor(std)
        self.register_buffer("scale", (1 / std).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        if isinstance(images, dict):  # maps, of images that were normalized
            return images
        levels = 255 if images.dtype == torch.uint8 else 1
        if levels == 1 and not images.is_floating_point():
            raise ValueError(f"images are of {images.dtype}, expected uint8, or floats in [0, 1]")
        # one pass over the images: they are the largest map of a small network
        return torch.addcmul(self.shift, images, self.scale / levels)


class Backbone(nn.Module):
    """A stack of stages; the last two are the levels of the pyramid.

    Input: normalized images (B, 3, H, W), or their `frozen_maps`. Output: {"4": map, "5": map}, of
    `widths` channels.

    The maps of a backbone that is frozen as a whole are rounded to half precision, in which they
    are kept, so that a network learns the same from images and from maps.

    Args:
        stages: from the input on.
        channels: of each stage's map.
        statistics: mean and std of the `Normalize` that its input is for.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        channels: Sequence[int],
        statistics: Statistics = (IMAGENET_MEAN, IMAGENET_STD),
    ) -> None:
        super().__init__()
        self.statistics = statistics
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(channels)
        self.widths = dict(zip(PYRAMID, self.channels[-len(PYRAMID) :], strict=True))
        self.frozen_stages = 0

    def forward(self, images: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        # where a gradient passes through to the image (a global STN's), no maps can be kept
        if self.frozen and not isinstance(images, dict) and not images.requires_grad:
            images = self.frozen_maps(images)
        if isinstance(images, dict):
            layout = torch.channels_last
            return {name: m.to(torch.float32, memory_format=layout) for name, m in images.items()}
        return self._levels(images)

    def _levels(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(PYRAMID, self.stage_maps(images)[-len(PYRAMID) :], strict=True))

    @property
    def frozen(self) -> bool:
        """Whether all of it is: then its maps are the same whenever an image is seen."""
        return self.frozen_stages >= len(self.stages)

    @torch.no_grad()
    def frozen_maps(self, images: Tensor) -> dict[str, Tensor]:
        """The output for normalized images, computed in float32, as float16.

        A CPU takes one image at a time: in a larger batch its sums are rounded in another way, and
        no faster.
        """
        device = images.device.type
        size = 1 if device == "cpu" else len(images)
        with torch.autocast(device, enabled=False):
            parts = [self._levels(part.float()) for part in images.split(size)]
        return {name: torch.cat([part[name] for part in parts]).half() for name in parts[0]}

    def fingerprint(self) -> str:
        """Changes with its weights and with the statistics of its input."""
        digest = blake2b(repr(self.statistics).encode(), digest_size=8)
        for name, value in self.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """The map of every stage, from the input on."""
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def freeze(self, stages: int) -> None:
        """Keep the first stages as they are: no gradients, and batch norm in evaluation mode."""
        self.frozen_stages = stages
        self.stages[:stages].requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        self.stages[: self.frozen_stages].eval()
        return self


def small_backbone(pooled: bool = False) -> Backbone:
    """Five convolutions for CPU: level 4 at stride 4, level 5 at stride 8.

    A cell of level 4 sees 15 pixels, far fewer than a bird of an 80-pixel image has: joining its
    parts is left to the window of the CSTN. A cell of level 5 sees 39.

    Args:
        pooled: level 5 is instead the mean of 2 x 2 cells of level 4, and sees 19 pixels.
    """
    stages = [
        _conv_bn_relu(3, 32, stride=2),
        _conv_bn_relu(32, 48, stride=2),
        _conv_bn_relu(48, 64),
    ]
    if pooled:
        return Backbone([*stages, nn.AvgPool2d(2)], channels=(32, 48, 64, 64))
    last = nn.Sequential(_conv_bn_relu(64, 96, stride=2), _conv_bn_relu(96, 128))
    return Backbone([*stages, last], channels=(32, 48, 64, 128))


def resnet_backbone(net: torchvision.models.ResNet) -> Backbone:
    """A torchvision ResNet without its classifier: strides 16 and 32 at levels 4 and 5."""
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    stages = [stem, net.layer1, net.layer2, net.layer3, net.layer4]
    last = net.fc.in_features
    return Backbone(stages, (net.bn1.num_features, last // 8, last // 4, last // 2, last))


class TimmBackbone(Backbone):
    """A model of timm with ``features_only``: one stage that gives all maps, frozen or not."""

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        maps = self.stages[0](images)
        if getattr(self.stages[0], "output_fmt", "") == "NHWC":
            maps = [features.permute(0, 3, 1, 2) for features in maps]
        return maps


def _timm_backbone(name: str, weights: str) -> TimmBackbone:
    net, statistics = timm_network(name, weights)
    strides = net.feature_info.reduction()
    if strides[-2:] != [16, 32]:
        raise InputError(
            f"backbone {name!r}: its maps have strides {', '.join(map(str, strides))}, expected 16 "
            "and 32 as the last two"
        )
    return TimmBackbone([net], net.feature_info.channels(), statistics)


def _conv_bn_relu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
