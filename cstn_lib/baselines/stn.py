"""STN: one affine transform of the whole image, learned by classifying what it cuts out.

Jaderberg, Simonyan, Zisserman, Kavukcuoglu: "Spatial Transformer Networks", NeurIPS 2015, section
3. A localization network reads the image and gives one theta, the image is sampled through it
(Eq. 1), and only the sample is classified. Its box is the hull of the transformed frame.

CSTN gives every location of every level a theta of its own and asks for the best afterwards; here
one theta must be right at once. Everything else is kept alike: theta starts as one centred frame
(the whole image, or a part of it) and stays there during the warm-up, and what regresses it learns
slowly. The localization network reads the features of the shared backbone, so an image passes the
backbone twice.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstn_lib.backbones import PYRAMID, Normalize, build_backbone
from cstn_lib.config import ModelConfig
from cstn_lib.geometry import Window, boxes_of_theta, identity_theta
from cstn_lib.outputs import Localizer, LocalizerOutput
from cstn_lib.pyramid import voting_losses

FRAME, FRAME_SIZE = Window(3), (3, 3)
"""A window that covers the whole of its map: its one location's default box is the frame."""


class GlobalSTN(Localizer):
    """Localization network, sampler, classifier; a `LocalizerOutput` with a single location."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(config)
        self.normalize = Normalize(*self.backbone.statistics)
        width = self.backbone.widths[PYRAMID[-1]]
        hidden = config.localization_channels
        self.localization = nn.Sequential(
            nn.Conv2d(width, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(4),  # any image size, and still a notion of where
            nn.Flatten(),
            nn.Linear(hidden * 4 * 4, 6, bias=False),
        )
        nn.init.zeros_(self.localization[-1].weight)
        self.first_frame = config.first_frame
        self.classifier = nn.Conv2d(width, config.num_classes, 1)

    def forward(
        self, images: Tensor, *, transform: bool = True, labels: Tensor | None = None
    ) -> LocalizerOutput:
        """Scores of what theta cuts out (or of the image), theta and its box."""
        images = self.normalize(images)
        features = self.backbone(images)[PYRAMID[-1]]
        theta = (self.first_frame * identity_theta(images)).expand(images.shape[0], 2, 3)
        if transform:
            theta = theta + self.localization(features).float().view(-1, 2, 3)
        if transform or self.first_frame < 1:
            features = self.backbone(_sampled(images, theta))[PYRAMID[-1]]
        scores = self.classifier(features.mean(dim=(2, 3), keepdim=True))
        theta = theta.view(-1, 1, 1, 2, 3)  # one location
        boxes = boxes_of_theta(theta.detach(), FRAME, FRAME_SIZE).flatten(1, 2)
        frame = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=images.device)
        return LocalizerOutput([scores], [theta], boxes, frame, PYRAMID[-1:])

    losses = staticmethod(voting_losses)

    def localization_parameters(self) -> list[nn.Parameter]:
        return list(self.localization.parameters())


def _sampled(images: Tensor, theta: Tensor) -> Tensor:
    """Images (B, 3, H, W) seen through theta (B, 2, 3); outside they are the mean colour, 0."""
    # affine_grid is a matrix product: under autocast it would round where points are
    device = images.device.type  # "meta", which knows shapes alone, has no autocast
    exact = torch.amp.is_autocast_available(device)
    with torch.autocast(device, enabled=False) if exact else nullcontext():
        grid = F.affine_grid(theta.float(), list(images.shape), align_corners=False)
        return F.grid_sample(images.float(), grid, align_corners=False).to(images.dtype)
