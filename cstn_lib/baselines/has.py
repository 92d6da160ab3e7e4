"""HaS, Hide-and-Seek: part of each training image is hidden, so no single part may suffice.

Singh, Lee: "Hide-and-Seek: Forcing a Network to be Meticulous for Weakly-supervised Object and
Action Localization", ICCV 2017. A training image is divided by a grid and each patch is hidden with
probability 0.5, anew each time it is seen (section 3.1). Hidden pixels take the mean colour of the
training images, so that the first layer expects of them what it expects of whole images. At test
time nothing is hidden and the network is CAM.

The patches are those of HaS-Mixed: of 16, 32, 44 or 56 pixels of 224, or none, drawn for each
image. Here they are the same shares of the image's shorter side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cstn_lib.baselines.cam import CAM
from cstn_lib.config import ModelConfig

PATCH_SHARES = (0, 16 / 224, 32 / 224, 44 / 224, 56 / 224)
"""Sides of the patches as shares of the image's; 0 hides nothing."""

HIDING_PROBABILITY = 0.5


class HaS(CAM):
    """CAM whose training images have holes.

    The mean colour is measured while training, over the batches seen so far, and kept with the
    weights.
    """

    takes_maps = False  # it hides part of the image

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.register_buffer("mean_colour", torch.zeros(3, 1, 1))
        self.register_buffer("batches", torch.tensor(0))

    def features(self, images: Tensor) -> Tensor:
        """Of images with holes while training."""
        if self.training:
            self._measure(images)
            hidden = hidden_pixels(len(images), (images.shape[2], images.shape[3]), images.device)
            images = torch.where(hidden.unsqueeze(1), self.mean_colour, images)
        return super().features(images)

    @torch.no_grad()
    def _measure(self, images: Tensor) -> None:
        colour = images.mean(dim=(0, 2, 3)).view(3, 1, 1)
        self.batches += 1
        self.mean_colour += (colour - self.mean_colour) / self.batches


def hidden_pixels(count: int, image_size: tuple[int, int], device: torch.device) -> Tensor:
    """Which pixels of `count` images are hidden: (count, H, W) booleans, drawn at random."""
    height, width = image_size
    sides = torch.tensor([round(share * min(image_size)) for share in PATCH_SHARES], device=device)
    side = sides[torch.randint(len(sides), (count,), device=device)].view(-1, 1)  # one per image
    cell = side.clamp(min=1)
    row = torch.arange(height, device=device) // cell  # (count, H) grid row of each pixel
    column = torch.arange(width, device=device) // cell
    grid = torch.rand(count, height, width, device=device) < HIDING_PROBABILITY
    image = torch.arange(count, device=device).view(-1, 1, 1)
    hidden = grid[image, row.unsqueeze(2), column.unsqueeze(1)]
    return hidden & (side > 0).unsqueeze(2)
