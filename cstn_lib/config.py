"""What determines a network and its training, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass

from cstn_lib.geometry import Window


@dataclass(frozen=True)
class LevelConfig:
    """The window of one pyramid level.

    Attributes:
        name: ``"4"`` or ``"5"``.
        kernel_size, stride, dilation: of its `ConvSTN2d`, in its order; in the authors' code 13 and
            7 cells, undilated, at every valid location.
    """

    name: str
    kernel_size: int
    stride: int = 1
    dilation: int = 1

    @property
    def window(self) -> Window:
        """Where the level's kernel looks."""
        return Window(self.kernel_size, self.stride, dilation=self.dilation)

    def convolution(self, channels: int) -> dict[str, int]:
        """The arguments of a convolution through that window, of `channels` in and out."""
        window = {name: getattr(self, name) for name in ("kernel_size", "stride", "dilation")}
        return {"in_channels": channels, "out_channels": channels, **window}


PAPER_LEVELS = (LevelConfig("4", 13), LevelConfig("5", 7))
"""The windows of the authors' code: both two thirds of the image."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that determines a network before training.

    Attributes:
        num_classes: C; 0 in an experiment, where the run fills in the data's.
        backbone: a name of `BACKBONES`, or ``timm:`` and one of timm's.
        weights: where the backbone starts: ``"pretrained"`` (the small one, trained on other
            birds), ``"imagenet"`` (from where it is published), ``"none"`` (at random) or the path
            of a ``.safetensors`` or ``.pth`` file.
        pyramid: what lies between the backbone's last two maps and the windows: ``"fpn"``, as in
            the paper, a 3x3 convolution and a feature pyramid network; or ``"lateral"``, its 1x1
            convolutions alone, which leave each cell the receptive field it has.
        levels: which pyramid levels vote, from the finest to the coarsest; methods without a
            pyramid do without.
        channels: width of the pyramid and of the CSTN.
        localization_channels: hidden width of the localization networks.
        frozen_stages: leading stages of the backbone that are not trained (2 = up to ``layer1``); a
            model of timm is one stage.
        first_frame: side, in (0, 1], of the centred frame that a global STN begins with.
        head: the method: ``"cstn"``; in its place ``"plain"`` an ordinary convolution (Table II) or
            ``"deform"`` a deformable one; ``"stn"`` one transform of the image; ``"cam"``,
            ``"has"``, ``"acol"``, ``"spg"`` and ``"adl"`` read score maps (`cstn_lib.baselines`).
    """

    num_classes: int = 0
    backbone: str = "small"
    weights: str = "pretrained"
    pyramid: str = "fpn"
    levels: tuple[LevelConfig, ...] = PAPER_LEVELS
    channels: int = 64
    localization_channels: int = 32
    frozen_stages: int = 0
    first_frame: float = 1.0
    head: str = "cstn"


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images.
        warmup_epochs: of these, how many keep theta at the identity.
        batch_size: images per step.
        optimizer: ``"adamw"`` or ``"sgd"`` (momentum 0.9).
        lr: the highest learning rate.
        localization_lr: the localization networks' share of it.
        weight_decay: of all parameters but the localization networks'.
        schedule: ``"one-cycle"`` (up over the first tenth, down along a cosine) or ``"constant"``.
        lambda_theta, alpha_scale: of Eq. 4, per example.
        level_weight: of the levels' own classification losses, which the paper does not have, see
            `cstn_lib.losses.level_loss`.
        box_weight: of `cstn_lib.losses.box_loss` in self-training.
        precision: ``"float32"`` or ``"bfloat16"``.
    """

    epochs: int = 8
    warmup_epochs: int = 2
    batch_size: int = 64
    optimizer: str = "adamw"
    lr: float = 2e-3
    localization_lr: float = 0.05
    weight_decay: float = 1e-4
    schedule: str = "one-cycle"
    lambda_theta: float = 0.0
    alpha_scale: float = 0.0
    level_weight: float = 0.0
    box_weight: float = 1.0
    precision: str = "float32"
