"""The frame of the paper's network (section III-E, Fig. 4), open where something attends.

    image -> backbone -> conv + BN on the last map -> pyramid -> per level: attention -> ReLU
          -> one 1x1 classifier shared by the levels -> joint distribution (`cstn_lib.joint`)

`PyramidLocalizer` leaves two methods open: which layer attends on a level, and how it is applied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from cstn_lib.backbones import PYRAMID, Normalize, build_backbone
from cstn_lib.config import LevelConfig, ModelConfig, TrainingConfig
from cstn_lib.evaluation.boxes import BoxList
from cstn_lib.evaluation.predictions import describe_batch, judge_boxes
from cstn_lib.geometry import Window, default_boxes
from cstn_lib.losses import total_loss
from cstn_lib.outputs import LocalizerOutput
from cstn_lib.support.errors import InputError

__all__ = ["PyramidLocalizer", "VotingLocalizer"]


class VotingLocalizer(nn.Module):
    """The half of `cstn_lib.outputs.Localizer` shared by networks that vote.

    A subclass sets ``level_names``, the pyramid's name of each level of its `LocalizerOutput`.
    """

    level_names: tuple[str, ...]

    def losses(
        self, output: LocalizerOutput, labels: Tensor, config: TrainingConfig
    ) -> dict[str, Tensor]:
        """Eq. 4 and its terms, see `cstn_lib.losses.total_loss`."""
        return total_loss(
            output.log_joint,
            output.thetas,
            labels,
            output.sizes,
            lambda_theta=config.lambda_theta,
            alpha_scale=config.alpha_scale,
        )

    def describe(self, output: LocalizerOutput, labels: Tensor) -> dict[str, Tensor]:
        """See `evaluation.predictions.describe_batch`; beside it all boxes, for `judge`."""
        return {
            **describe_batch(output, labels, self.level_names),
            "boxes": output.boxes,
            "default_boxes": output.default_boxes.expand_as(output.boxes),
        }

    def judge(
        self,
        columns: dict[str, np.ndarray],
        truth: BoxList,
        image_size: tuple[int, int],
        *,
        sweep: bool,
    ) -> dict[str, np.ndarray]:
        """See `cstn_lib.evaluation.predictions.judge_boxes`; there is no threshold to sweep."""
        return judge_boxes(columns, truth)

    def localization_parameters(self) -> list[nn.Parameter]:
        """The parameters that move windows: they learn slowly and are not decayed."""
        return []


class PyramidLocalizer(VotingLocalizer, ABC):
    """Backbone, pyramid, one attending layer a level, one classifier shared by the levels.

    Input: images (B, 3, H, W), uint8 in [0, 255] or float in [0, 1]; output: `LocalizerOutput`.

    Raises:
        InputError: the levels of `config` are none, unknown or in another order.
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
        self.normalize = Normalize()
        self.backbone = build_backbone(config)
        widths = [self.backbone.widths[name] for name in PYRAMID]
        self.extra = nn.Sequential(
            nn.Conv2d(widths[-1], widths[-1], 3, padding=1, bias=False), nn.BatchNorm2d(widths[-1])
        )
        self.pyramid = FeaturePyramidNetwork(widths, config.channels)
        self.attend = nn.ModuleDict(
            {level.name: self.attention(level, config) for level in config.levels}
        )
        self.classifier = nn.Conv2d(config.channels, config.num_classes, 1)

    @abstractmethod
    def attention(self, level: LevelConfig, config: ModelConfig) -> nn.Module:
        """The layer that looks at a level's map, of `config.channels` in and out."""

    @abstractmethod
    def look(
        self, layer: nn.Module, features: Tensor, window: Window, transform: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Apply a layer made by `attention`.

        Args:
            features: (B, channels, H, W) map of a level.
            window: of the level.
            transform: False keeps the layer to the window.

        Returns:
            the attended map (B, channels, h, w); thetas (B, h, w, 2, 3), or None for a layer
            without; the boxes it looked at (B, h, w, 4), or None for the default boxes.
        """

    def forward(
        self, images: Tensor, *, transform: bool = True, labels: Tensor | None = None
    ) -> LocalizerOutput:
        """Scores, thetas and boxes; `labels` are not looked at.

        Args:
            transform: False keeps every window at its place, which is how features are warmed up.
        """
        maps = self.backbone(self.normalize(images))
        maps[PYRAMID[-1]] = self.extra(maps[PYRAMID[-1]])
        maps = self.pyramid(OrderedDict((name, maps[name]) for name in PYRAMID))
        scores, thetas, boxes, defaults = [], [], [], []
        for level in self.levels:
            features = maps[level.name]
            window = level.window
            default = default_boxes(window, (features.shape[2], features.shape[3]), images.device)
            attended, theta, box = self.look(self.attend[level.name], features, window, transform)
            scores.append(self.classifier(F.relu(attended)))
            if theta is not None:
                thetas.append(theta)
            if box is None:
                box = default.expand(len(images), *default.shape)
            boxes.append(box.flatten(1, 2))
            defaults.append(default.flatten(0, 1))
        return LocalizerOutput(scores, thetas, torch.cat(boxes, 1), torch.cat(defaults))
