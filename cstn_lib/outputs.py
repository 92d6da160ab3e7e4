"""What networks are given and what they say; what is made of that is `cstn_lib.evaluation`'s.

`cstn_lib.training` trains and asks a `Localizer` without knowing its method. Two kinds of output
cover all methods: votes with boxes (`LocalizerOutput`) and score maps (`ScoreMapOutput`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.export import register_dataclass

from cstn_lib.config import TrainingConfig
from cstn_lib.joint import joint_log_prob

Output = TypeVar("Output", bound=type)


def exportable(output: Output) -> Output:
    """A decorator of dataclasses that `torch.export` and the like take apart and put together."""
    register_dataclass(output, serialized_type_name=f"{output.__module__}.{output.__name__}")
    return output


class Localizer(nn.Module, ABC):
    """What every network of the project offers.

    Attributes:
        takes_maps: whether it can be given, instead of images, what its backbone makes of them: the
            maps by level (`cstn_lib.backbones.Backbone.frozen_maps`).
    """

    takes_maps: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self,
        images: Tensor | dict[str, Tensor],
        *,
        transform: bool = True,
        labels: Tensor | None = None,
    ) -> LocalizerOutput | ScoreMapOutput:
        """What the network says of a batch.

        Args:
            images: (B, 3, H, W), uint8 in [0, 255] or float in [0, 1]; where the network
                `takes_maps`, also those.
            transform: False keeps windows that can move at their place (the warm-up).
            labels: (B,) int64 true classes; in training alone, for methods that erase by the class.
        """

    @abstractmethod
    def losses(self, output: Any, labels: Tensor, config: TrainingConfig) -> dict[str, Tensor]:
        """The scalar ``loss`` that is minimised, and after it the terms worth a history."""

    def localization_parameters(self) -> list[nn.Parameter]:
        """The parameters that move windows: they learn slowly and are not decayed."""
        return []


@exportable
@dataclass
class LocalizerOutput:
    """Votes: every location of every level scores every class, and owns a box.

    Attributes:
        scores: (B, C, h_s, w_s) class scores, one per level.
        thetas: (B, h_s, w_s, 2, 3), one per level; empty where the network has no transform.
        boxes: (B, N, 4) the box of every location, ``xyxy`` in [0, 1].
        default_boxes: (N, 4) the same at theta = identity.
        level_names: the pyramid's name of each level.
    """

    scores: list[Tensor]
    thetas: list[Tensor]
    boxes: Tensor
    default_boxes: Tensor
    level_names: tuple[str, ...]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(h_s, w_s) of each level."""
        return [(score.shape[2], score.shape[3]) for score in self.scores]

    @property
    def log_joint(self) -> Tensor:
        """(B, C, N) log p(c, l, s), in float32 at least, whatever the network ran in."""
        return joint_log_prob(self.scores)


@exportable
@dataclass
class ScoreMapOutput:
    """A classification and, for every class, a map of where it was seen.

    Attributes:
        logits: (B, C) class scores of the image.
        maps: (B, C, h, w) score maps; only differences within a map mean something.
    """

    logits: Tensor
    maps: Tensor


def normalized(maps: Tensor) -> Tensor:
    """Score maps (..., h, w) in [0, 1], each by its own minimum and maximum; zeros if flat."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    scale = torch.where(high > low, high - low, 1)
    return (maps - low) / scale
