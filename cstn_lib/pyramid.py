"""The paper's network (section III-E, Fig. 4), and the same with plain convolutions.

    image -> backbone -> pyramid -> per level: window layer -> ReLU
          -> one 1x1 classifier shared by the levels -> joint distribution (`cstn_lib.joint`)

The paper's pyramid is a 3x3 convolution on the last map and a feature pyramid network: there every
cell sees most of the image. Of small images each would see all, and no vote would mean a place; so
the small networks keep its lateral 1x1 convolutions alone (notebook 02).

The window layers of `PyramidLocalizer` are plain convolutions; two methods put another kind in
their place, as `CSTNLocalizer` does with `ConvSTN2d`.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from cstn_lib.backbones import PYRAMID, Normalize, build_backbone
from cstn_lib.config import LevelConfig, ModelConfig, TrainingConfig
from cstn_lib.cstn import ConvSTN2d
from cstn_lib.geometry import Window, boxes_of_theta, default_boxes
from cstn_lib.losses import total_loss
from cstn_lib.outputs import Localizer, LocalizerOutput
from cstn_lib.support.errors import InputError, unknown_name

PYRAMIDS = ("fpn", "lateral")


def voting_losses(
    output: LocalizerOutput, labels: Tensor, config: TrainingConfig
) -> dict[str, Tensor]:
    """Eq. 4 and its terms for a network that votes, see `cstn_lib.losses.total_loss`."""
    return total_loss(
        output.log_joint,
        output.thetas,
        labels,
        output.sizes,
        lambda_theta=config.lambda_theta,
        alpha_scale=config.alpha_scale,
        level_weight=config.level_weight,
    )


class PyramidLocalizer(Localizer):
    """Backbone, pyramid, one window layer per level, one classifier shared by the levels.

    As it is, the other row of Table II: windows stay where they are, so the box of a location is
    its default (receptive-field) box. Subclasses bring another `make_layer` and `apply_layer`.

    Input: images (B, 3, H, W), uint8 in [0, 255] or float in [0, 1]; output: `LocalizerOutput`.

    Raises:
        InputError: the pyramid of `config` is unknown, or its levels are none, unknown or in
            another order.
    """

    takes_maps = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        names = [level.name for level in config.levels]
        if not names or names != [name for name in PYRAMID if name in names]:
            raise InputError(
                f"levels {', '.join(names) or '(none)'}: expected some of {', '.join(PYRAMID)}, "
                "from the finest to the coarsest"
            )
        self.levels = config.levels
        self.backbone = build_backbone(config)
        self.normalize = Normalize(*self.backbone.statistics)
        widths = self.backbone.widths
        if config.pyramid == "lateral":
            self.pyramid = nn.ModuleDict(
                {name: nn.Conv2d(widths[name], config.channels, 1) for name in names}
            )
        elif config.pyramid == "fpn":
            self.extra_conv, self.pyramid = _paper_pyramid(list(widths.values()), config, names)
        else:
            raise unknown_name("pyramid", config.pyramid, PYRAMIDS)
        self.layers = nn.ModuleDict(
            {level.name: self.make_layer(level, config) for level in config.levels}
        )
        self.classifier = nn.Conv2d(config.channels, config.num_classes, 1)

    def make_layer(self, level: LevelConfig, config: ModelConfig) -> nn.Module:
        """The window layer of a level, of `config.channels` in and out."""
        return nn.Conv2d(**level.convolution(config.channels))

    def apply_layer(
        self, layer: nn.Module, features: Tensor, window: Window, transform: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Apply a layer made by `make_layer`.

        Args:
            features: (B, channels, H, W) map of a level.
            window: of the level.
            transform: False keeps the layer to the window.

        Returns:
            the layer's output (B, channels, h, w); thetas (B, h, w, 2, 3), or None for a layer
            without; the boxes it sampled (B, h, w, 4), or None for the default boxes.
        """
        return layer(features), None, None

    def maps(self, images: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        """What the windows look at: a map (B, channels, H, W) by the name of its level.

        Args:
            images: as of `forward`.
        """
        maps = self.backbone(self.normalize(images))
        if isinstance(self.pyramid, nn.ModuleDict):
            return {name: lateral(maps[name]) for name, lateral in self.pyramid.items()}
        maps[PYRAMID[-1]] = self.extra_conv(maps[PYRAMID[-1]])
        return self.pyramid(OrderedDict((name, maps[name]) for name in PYRAMID))

    def forward(
        self,
        images: Tensor | dict[str, Tensor],
        *,
        transform: bool = True,
        labels: Tensor | None = None,
    ) -> LocalizerOutput:
        """Scores, thetas and boxes, see `cstn_lib.outputs.Localizer`; `labels` change nothing."""
        maps = self.maps(images)
        scores, thetas, boxes, defaults = [], [], [], []
        for level in self.levels:
            features, window, layer = maps[level.name], level.window, self.layers[level.name]
            default = default_boxes(window, (features.shape[2], features.shape[3]), features.device)
            windowed, theta, box = self.apply_layer(layer, features, window, transform)
            scores.append(self.classifier(F.relu(windowed)))
            if theta is not None:
                thetas.append(theta)
            if box is None:
                box = default.expand(features.shape[0], *default.shape)
            boxes.append(box.flatten(1, 2))
            defaults.append(default.flatten(0, 1))
        names = tuple(level.name for level in self.levels)
        return LocalizerOutput(scores, thetas, torch.cat(boxes, 1), torch.cat(defaults), names)

    losses = staticmethod(voting_losses)


class CSTNLocalizer(PyramidLocalizer):
    """The paper's network (section III-E): a `ConvSTN2d` on each level of the pyramid."""

    def make_layer(self, level: LevelConfig, config: ModelConfig) -> ConvSTN2d:
        return ConvSTN2d(
            **level.convolution(config.channels),
            localization_channels=config.localization_channels,
        )

    def apply_layer(
        self, layer: ConvSTN2d, features: Tensor, window: Window, transform: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        windowed, theta = layer(features, transform=transform)
        size = (features.shape[2], features.shape[3])
        return windowed, theta, boxes_of_theta(theta, window, size)

    def localization_parameters(self) -> list[nn.Parameter]:
        return [p for layer in self.layers.values() for p in layer.localization.parameters()]


def _paper_pyramid(
    widths: list[int], config: ModelConfig, voting: list[str]
) -> tuple[nn.Sequential, FeaturePyramidNetwork]:
    """The 3x3 convolution on the last map (section IV-A), the feature pyramid network (III-E)."""
    extra_conv = nn.Sequential(
        nn.Conv2d(widths[-1], widths[-1], 3, padding=1, bias=False), nn.BatchNorm2d(widths[-1])
    )
    pyramid = FeaturePyramidNetwork(widths, config.channels)
    for place, name in enumerate(PYRAMID):  # what leads to no level that votes never learns
        if name not in voting:
            pyramid.layer_blocks[place].requires_grad_(False)
        if place < PYRAMID.index(voting[0]):
            pyramid.inner_blocks[place].requires_grad_(False)
    return extra_conv, pyramid
