"""What determines a network before it is trained, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PAPER_LEVELS", "LevelConfig", "ModelConfig"]


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
