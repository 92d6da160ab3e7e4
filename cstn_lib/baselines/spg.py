"""SPG, self-produced guidance: a network's own confident cells teach its other layers.

Zhang, Wei, Kang, Yang, Huang: "Self-produced Guidance for Weakly-supervised Object Localization",
ECCV 2018, section 3. Cells where a map is high become foreground, cells where it is low background,
and the cells between teach nothing. Learned in stages:

    attention of the classifier (A) -> guides B2 -> guides B1;     the mean of B1 and B2 -> guides C

B1 and B2 read two intermediate maps and share their last layers; C reads the last map. So the
features that are classified come to tell the object from the background. At test time only the
classifier's map is read, as in CAM.

Thresholds and the rule for maps that are nowhere high are those of the authors' code. Masks have
the size of the map that B1 reads; there they have the size of the image. Every map that guides is
first brought to [0, 1], like the attention: a branch that is nowhere below its low threshold would
teach no background, and short trainings leave it so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstn_lib.baselines.cam import CAM
from cstn_lib.config import ModelConfig, TrainingConfig
from cstn_lib.outputs import ScoreMapOutput, exportable, normalized


class Thresholds(NamedTuple):
    """Above `high` is foreground, below `low` background."""

    high: float
    low: float


FOR_B2 = Thresholds(0.7, 0.05)
FOR_B1 = Thresholds(0.5, 0.05)
FOR_C = Thresholds(0.7, 0.1)
FALLBACK = 0.7
"""Where nothing is above `high`, foreground is above this share of the map's own maximum."""


@exportable
@dataclass
class SPGOutput(ScoreMapOutput):
    """`ScoreMapOutput` and the logits of "object here" by three branches.

    Attributes:
        b1, b2, c: (B, h, w), all of the size of the map that B1 reads.
    """

    b1: Tensor
    b2: Tensor
    c: Tensor


class SPG(CAM):
    """CAM (the paper's SPG-A) with three branches that learn masks."""

    takes_maps = False  # it reads a third map

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        first, second, last = self.backbone.channels[-3:]
        width = second
        self.read_b1 = nn.Sequential(nn.Conv2d(first, width, 3, padding=1), nn.ReLU(inplace=True))
        self.read_b2 = nn.Sequential(nn.Conv2d(second, width, 3, padding=1), nn.ReLU(inplace=True))
        self.shared_b = _mask_branch(width, width)
        self.branch_c = _mask_branch(last, width)

    def forward(
        self, images: Tensor, *, transform: bool = True, labels: Tensor | None = None
    ) -> SPGOutput:
        """Class scores, class maps and the branches' masks, as logits."""
        first, second, last = self.backbone.stage_maps(self.normalize(images))[-3:]
        size = (first.shape[2], first.shape[3])
        b1 = self.shared_b(self.read_b1(first))
        b2 = self.shared_b(self.read_b2(second))
        c = self.branch_c(last)
        seen = self.classify(last, labels)
        masks = [_resized(branch.squeeze(1).float(), size) for branch in (b1, b2, c)]
        return SPGOutput(seen.logits, seen.maps, *masks)

    def losses(
        self, output: SPGOutput, labels: Tensor, config: TrainingConfig
    ) -> dict[str, Tensor]:
        """Cross-entropy of the class and of the three masks, with equal weights."""
        rows = torch.arange(len(labels), device=labels.device)
        attention = normalized(_resized(output.maps[rows, labels], output.b1.shape[1:]))
        b1, b2 = normalized(output.b1.sigmoid()), normalized(output.b2.sigmoid())
        cls = F.cross_entropy(output.logits, labels)
        guided = (
            guided_loss(output.b2, guidance(attention, FOR_B2))
            + guided_loss(output.b1, guidance(b2, FOR_B1))
            + guided_loss(output.c, guidance((b1 + b2) / 2, FOR_C))
        )
        return {"loss": cls + guided, "loss_cls": cls, "loss_guided": guided}


def guidance(attention: Tensor, thresholds: Thresholds) -> Tensor:
    """The mask that a map (B, h, w) in [0, 1] teaches: 1 object, 0 background, -1 neither."""
    attention = attention.detach()
    strongest = attention.amax(dim=(1, 2), keepdim=True)
    high = torch.where(strongest > thresholds.high, thresholds.high, FALLBACK * strongest)
    mask = torch.where(attention > high, 1.0, -1.0)
    return mask.masked_fill(attention < thresholds.low, 0)


def guided_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of logits (B, h, w) with a mask of `guidance`, over what it marks."""
    marked = mask >= 0
    loss = F.binary_cross_entropy_with_logits(logits, mask.clamp(min=0), reduction="none")
    return (loss * marked).sum() / marked.sum().clamp(min=1)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, h, w) resized bilinearly to (B, *size)."""
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def _mask_branch(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 1, 1),
    )
