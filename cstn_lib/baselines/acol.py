"""ACoL: two classifiers, of which the second must do without what convinced the first.

Zhang, Wei, Feng, Yang, Huang: "Adversarial Complementary Learning for Weakly Supervised Object
Localization", CVPR 2018, section 3. Both classifiers read the same features; where the first one's
map of the true class, brought to [0, 1], reaches delta = 0.6, the features are erased for the
second. So it learns from other parts of the object, and the element-wise maximum of both maps
covers more of it than either.

A classifier is two 3x3 convolutions and a 1x1 one, as in the authors' code; it has the backbone's
width where theirs, on VGG-16, has 1024.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstn_lib.backbones import PYRAMID
from cstn_lib.baselines.cam import CAM
from cstn_lib.config import ModelConfig, TrainingConfig
from cstn_lib.outputs import ScoreMapOutput, exportable, normalized

ERASING_THRESHOLD = 0.6


@exportable
@dataclass
class ACoLOutput(ScoreMapOutput):
    """`ScoreMapOutput` of both classifiers together, and what each says.

    Attributes:
        logits: (B, C) of the first classifier.
        maps: (B, C, h, w) the element-wise maximum of both classifiers' maps in [0, 1].
        erased: (B, h, w) booleans, what the second classifier did not see.
        erased_logits: (B, C) of the second classifier.
    """

    erased: Tensor
    erased_logits: Tensor


class ACoL(CAM):
    """CAM with a deeper classifier and a second one that sees the rest."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width = self.backbone.widths[PYRAMID[-1]]
        self.classifier = _classifier(width, config.num_classes)
        self.second_classifier = _classifier(width, config.num_classes)

    def classify(self, features: Tensor, labels: Tensor | None) -> ACoLOutput:
        """Both classifiers' scores and their maps together.

        Args:
            labels: whose map erases; without them, as at test time, the predicted classes.
        """
        first = self.classifier(features).float()
        logits = first.mean(dim=(2, 3))
        classes = logits.argmax(dim=1) if labels is None else labels
        rows = torch.arange(classes.shape[0], device=classes.device)
        erased = normalized(first.detach()[rows, classes]) >= ERASING_THRESHOLD
        second = self.second_classifier(features.masked_fill(erased.unsqueeze(1), 0)).float()
        maps = torch.maximum(normalized(first.detach()), normalized(second.detach()))
        return ACoLOutput(logits, maps, erased, second.mean(dim=(2, 3)))

    def losses(
        self, output: ACoLOutput, labels: Tensor, config: TrainingConfig
    ) -> dict[str, Tensor]:
        """The cross-entropies of both classifiers, added up."""
        cls = F.cross_entropy(output.logits, labels)
        erased = F.cross_entropy(output.erased_logits, labels)
        return {"loss": cls + erased, "loss_cls": cls, "loss_erased": erased}


def _classifier(width: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, num_classes, 1),
    )
