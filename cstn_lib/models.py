"""The complete system (section III-E, Fig. 4): backbone, feature pyramid, a CSTN on each level.

    image -> backbone -> conv + BN on the last map -> pyramid -> per level: ConvSTN2d -> ReLU
          -> one 1x1 classifier shared by the levels -> joint distribution (`cstn_lib.joint`)

Levels carry the paper's names: ``"4"`` and ``"5"`` are the last two stages of a ResNet, strides 16
and 32. The small backbone has strides 4 and 8 there, so that an 80-pixel image gives the same 20 x
20 and 10 x 10 maps as 320 pixels do in the paper.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from cstn_lib.cstn import ConvSTN2d
from cstn_lib.errors import InputError, first_line, unknown_name
from cstn_lib.geometry import Window, boxes_of_theta, default_boxes
from cstn_lib.joint import joint_log_prob

__all__ = [
    "BACKBONES",
    "PAPER_LEVELS",
    "Backbone",
    "CSTNLocalizer",
    "LevelConfig",
    "LocalizerOutput",
    "ModelConfig",
    "PooledClassifier",
    "build_model",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PRETEXT_WEIGHTS = files("cstn_lib") / "weights" / "small-pretext.safetensors"
PYRAMID = ("4", "5")
"""The levels of the feature pyramid, from the finest to the coarsest."""


@dataclass(frozen=True)
class LevelConfig:
    """The window of one pyramid level.

    Attributes:
        name: ``"4"`` or ``"5"``.
        kernel_size, dilation: of its `ConvSTN2d`; the paper's are 13 and 7, undilated.
    """

    name: str
    kernel_size: int
    dilation: int = 1


PAPER_LEVELS = (LevelConfig("4", 13), LevelConfig("5", 7))
"""The windows of the authors' code: both two thirds of the image."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that determines a network before training.

    Attributes:
        num_classes: C; 0 in an experiment, where the run fills in the data's.
        backbone: a name of `BACKBONES`.
        weights: where the backbone starts: ``"pretext"`` (the small one, trained on other birds),
            ``"imagenet"`` (torchvision's weights), ``"none"`` (at random) or the path of a
            ``.safetensors`` or ``.pth`` file.
        levels: which pyramid levels vote, from the finest to the coarsest.
        channels: width of the pyramid and of the CSTN.
        localization_channels: hidden width of the localization networks.
        frozen_stages: leading stages of the backbone that are not trained (2 = up to ``layer1``).
        head: ``"cstn"``; ``"conv"`` puts an ordinary convolution in its place (Table II);
            ``"pooled"`` classifies the pooled last map, which is how backbones are pretrained.
    """

    num_classes: int = 0
    backbone: str = "small"
    weights: str = "pretext"
    levels: tuple[LevelConfig, ...] = PAPER_LEVELS
    channels: int = 64
    localization_channels: int = 32
    frozen_stages: int = 0
    head: str = "cstn"


@dataclass
class LocalizerOutput:
    """What a network says of a batch.

    Attributes:
        scores: (B, C, h_s, w_s) class scores, one a level.
        thetas: (B, h_s, w_s, 2, 3), one a level; empty where the network has no transform.
        boxes: (B, N, 4) the box of every location, ``xyxy`` in [0, 1].
        default_boxes: (N, 4) the same at theta = identity.
    """

    scores: list[Tensor]
    thetas: list[Tensor]
    boxes: Tensor
    default_boxes: Tensor

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(h_s, w_s) of each level."""
        return [(score.shape[2], score.shape[3]) for score in self.scores]

    @property
    def log_joint(self) -> Tensor:
        """(B, C, N) log p(c, l, s), computed in float32 whatever the network ran in."""
        return joint_log_prob([score.float() for score in self.scores])


def build_model(config: ModelConfig) -> nn.Module:
    """The network of a configuration, with its backbone's starting weights loaded.

    Raises:
        InputError: a name is unknown, or the weights cannot be had.
    """
    heads = {"cstn": CSTNLocalizer, "conv": CSTNLocalizer, "pooled": PooledClassifier}
    if config.head not in heads:
        raise unknown_name("head", config.head, heads)
    if config.num_classes < 1:
        raise InputError(f"num_classes {config.num_classes}: expected 1 or more")
    return heads[config.head](config)


class CSTNLocalizer(nn.Module):
    """The paper's network.

    Input: images (B, 3, H, W), uint8 in [0, 255] or float in [0, 1]; output: `LocalizerOutput`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        names = [level.name for level in config.levels]
        if not names or names != [name for name in PYRAMID if name in names]:
            raise InputError(
                f"levels {', '.join(names) or '(none)'}: expected some of {', '.join(PYRAMID)}, "
                "from the finest to the coarsest"
            )
        self.levels = config.levels
        self.level_names = tuple(names)
        self.has_transform = config.head == "cstn"
        self.normalize = Normalize()
        self.backbone = build_backbone(config)
        widths = [self.backbone.widths[name] for name in PYRAMID]
        self.extra = nn.Sequential(
            nn.Conv2d(widths[-1], widths[-1], 3, padding=1, bias=False), nn.BatchNorm2d(widths[-1])
        )
        self.pyramid = FeaturePyramidNetwork(widths, config.channels)
        self.attend = nn.ModuleDict(
            {level.name: self._attention(level, config) for level in config.levels}
        )
        self.classifier = nn.Conv2d(config.channels, config.num_classes, 1)

    def _attention(self, level: LevelConfig, config: ModelConfig) -> nn.Module:
        if self.has_transform:
            return ConvSTN2d(
                config.channels,
                config.channels,
                level.kernel_size,
                dilation=level.dilation,
                localization_channels=config.localization_channels,
            )
        return nn.Conv2d(
            config.channels, config.channels, level.kernel_size, dilation=level.dilation
        )

    def forward(self, images: Tensor, transform: bool = True) -> LocalizerOutput:
        """Scores, thetas and boxes.

        Args:
            transform: False keeps every theta at the identity, which is how features are warmed up.
        """
        maps = self.backbone(self.normalize(images))
        maps[PYRAMID[-1]] = self.extra(maps[PYRAMID[-1]])
        maps = self.pyramid(OrderedDict((name, maps[name]) for name in PYRAMID))
        scores, thetas, boxes, defaults = [], [], [], []
        for level in self.levels:
            features = maps[level.name]
            size = (features.shape[2], features.shape[3])
            window = Window(level.kernel_size, dilation=level.dilation)
            default = default_boxes(window, size, features.device)
            box = default.expand(len(images), *default.shape)
            if self.has_transform:
                layer = self.attend[level.name]
                attended, theta = layer(features) if transform else layer.plain(features)
                thetas.append(theta)
                box = boxes_of_theta(theta.detach().float(), window, size)
            else:
                attended = self.attend[level.name](features)
            scores.append(self.classifier(F.relu(attended)))
            boxes.append(box.flatten(1, 2))
            defaults.append(default.flatten(0, 1))
        return LocalizerOutput(scores, thetas, torch.cat(boxes, 1), torch.cat(defaults))

    def localization_parameters(self) -> list[nn.Parameter]:
        """The parameters that move theta: they learn slowly and are not decayed."""
        if not self.has_transform:
            return []
        return [p for layer in self.attend.values() for p in layer.localization.parameters()]


class PooledClassifier(nn.Module):
    """Backbone, global average pooling, linear classifier: how a backbone is pretrained.

    It votes once for the whole image, so its joint distribution is the ordinary softmax and its one
    box is the frame.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.level_names = PYRAMID[-1:]
        self.normalize = Normalize()
        self.backbone = build_backbone(config)
        self.classifier = nn.Conv2d(self.backbone.widths[PYRAMID[-1]], config.num_classes, 1)

    def forward(self, images: Tensor, transform: bool = True) -> LocalizerOutput:
        """`transform` is accepted for one interface with `CSTNLocalizer`; there is none here."""
        pooled = self.backbone(self.normalize(images))[PYRAMID[-1]].mean(dim=(2, 3), keepdim=True)
        frame = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=images.device)
        return LocalizerOutput(
            [self.classifier(pooled)], [], frame.expand(len(images), 1, 4), frame
        )

    def localization_parameters(self) -> list[nn.Parameter]:
        """None: nothing moves."""
        return []


class Normalize(nn.Module):
    """uint8 or [0, 1] images to zero mean and unit deviation, with ImageNet's statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            images = images.float() / 255
        return (images - self.mean) / self.std


class Backbone(nn.Module):
    """A stack of stages; two of them are the levels of the pyramid.

    Input: normalized images (B, 3, H, W). Output: {"4": map, "5": map}, of `widths` channels.

    Args:
        stages: from the input on.
        widths: channels of each level.
    """

    def __init__(self, stages: Sequence[nn.Module], widths: dict[str, int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.widths = widths
        self.frozen_stages = 0

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = images
        outputs = []
        for stage in self.stages:
            maps = stage(maps)
            outputs.append(maps)
        return dict(zip(PYRAMID, outputs[-len(PYRAMID) :], strict=True))

    def freeze(self, stages: int) -> None:
        """Keep the first stages as they are: no gradients, and batch norm in evaluation mode."""
        self.frozen_stages = stages
        self.stages[:stages].requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        self.stages[: self.frozen_stages].eval()
        return self


def small_backbone() -> Backbone:
    """Five convolutions for CPU: level 4 at stride 4, level 5 at stride 8.

    Its receptive field, 15 pixels at level 4 and 39 at level 5, stays below a bird of an 80-pixel
    image: joining the parts is left to the window of the CSTN.
    """
    return Backbone(
        [
            _conv_bn_relu(3, 32, stride=2),
            _conv_bn_relu(32, 48, stride=2),
            _conv_bn_relu(48, 64),
            nn.Sequential(_conv_bn_relu(64, 96, stride=2), _conv_bn_relu(96, 128)),
        ],
        {"4": 64, "5": 128},
    )


def resnet_backbone(net: torchvision.models.ResNet) -> Backbone:
    """A torchvision ResNet without its classifier: strides 16 and 32 at levels 4 and 5."""
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    stages = [stem, net.layer1, net.layer2, net.layer3, net.layer4]
    last = net.fc.in_features
    return Backbone(stages, {"4": last // 2, "5": last})


BACKBONES = ("small", "resnet18", "resnet34", "resnet50", "resnet101")


def build_backbone(config: ModelConfig) -> Backbone:
    """The backbone of a configuration, loaded and partly frozen.

    Raises:
        InputError: the name is unknown or its weights cannot be had.
    """
    if config.backbone not in BACKBONES:
        raise unknown_name("backbone", config.backbone, BACKBONES)
    state = _starting_weights(config.backbone, config.weights)
    if config.backbone == "small":
        backbone = small_backbone()
        if state is not None:
            _load(backbone, state, config.weights)
    else:
        net = torchvision.models.get_model(config.backbone, weights=None)
        if state is not None:
            _load(net, {**net.fc.state_dict(prefix="fc."), **state}, config.weights)
        backbone = resnet_backbone(net)
    backbone.freeze(config.frozen_stages)
    return backbone


def _starting_weights(backbone: str, weights: str) -> dict[str, Tensor] | None:
    if weights == "none":
        return None
    if weights == "pretext":
        if backbone != "small":
            raise InputError(f"weights 'pretext' belong to backbone 'small', not to {backbone!r}")
        return _read_weights(Path(str(PRETEXT_WEIGHTS)))
    if weights == "imagenet":
        if backbone == "small":
            raise InputError("weights 'imagenet' belong to a ResNet, not to backbone 'small'")
        published = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"]
        try:
            return dict(published.get_state_dict(progress=True, check_hash=True))
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"cannot download {published.url} ({error}); fetch that file by hand and give its "
                "path as `weights`"
            ) from error
    return _read_weights(Path(weights))


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise InputError(
            f"weights {str(path)!r}: expected 'pretext', 'imagenet', 'none' or the path of a "
            ".safetensors or .pth file"
        )
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles fail in as many ways as there are bytes
        raise InputError(f"{path}: cannot read these weights ({first_line(error)})") from error
    named = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not named:
        raise InputError(f"{path}: expected a network's tensors by name, as state_dict() gives")
    return state


def _load(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state whose names and shapes fit; old files may lack batch norm's counters."""
    own = module.state_dict()
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked")}
    state = {**counters, **state}
    for name in sorted(own.keys() | state.keys()):
        if name not in own or name not in state or own[name].shape != state[name].shape:
            raise InputError(
                f"{source}: the weights do not fit: {name} is "
                f"{_shape(state.get(name))}, the network has {_shape(own.get(name))}"
            )
    module.load_state_dict(state)


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else "x".join(map(str, tensor.shape)) or "a number"


def _conv_bn_relu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
