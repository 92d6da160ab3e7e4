"""CAM: class activation maps, on which the other methods of the family build.

Zhou, Khosla, Lapedriza, Oliva, Torralba: "Learning Deep Features for Discriminative Localization",
CVPR 2016. A network that ends in global average pooling and a linear classifier (section 2) may as
well classify each cell first and average then: class c's score is the mean of a map,

    S_c = mean over x, y of M_c(x, y),      M_c(x, y) = w_c . f(x, y) + b_c,

and the map shows where the score comes from. It becomes a box by a threshold
(`cstn_lib.evaluation.score_maps`).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cstn_lib.backbones import PYRAMID, Normalize, build_backbone
from cstn_lib.config import ModelConfig, TrainingConfig
from cstn_lib.outputs import Localizer, ScoreMapOutput


class CAM(Localizer):
    """Backbone, a 1x1 classifier on its last map, global average pooling.

    Without its map it is an ordinary classifier: backbones are pretrained with it.
    """

    takes_maps = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(config)
        self.normalize = Normalize(*self.backbone.statistics)
        self.classifier = nn.Conv2d(self.backbone.widths[PYRAMID[-1]], config.num_classes, 1)

    def forward(
        self, images: Tensor, *, transform: bool = True, labels: Tensor | None = None
    ) -> ScoreMapOutput:
        """Class scores and class maps; `transform` changes nothing."""
        return self.classify(self.features(self.normalize(images)), labels)

    def features(self, images: Tensor) -> Tensor:
        """The last map (B, channels, h, w) of normalized images (B, 3, H, W)."""
        return self.backbone(images)[PYRAMID[-1]]

    def classify(self, features: Tensor, labels: Tensor | None) -> ScoreMapOutput:
        """Class scores and class maps of the features; `labels` change nothing here."""
        maps = self.classifier(features).float()
        return ScoreMapOutput(maps.mean(dim=(2, 3)), maps)

    def losses(
        self, output: ScoreMapOutput, labels: Tensor, config: TrainingConfig
    ) -> dict[str, Tensor]:
        """Cross-entropy of the image's class."""
        cls = F.cross_entropy(output.logits, labels)
        return {"loss": cls, "loss_cls": cls}
