"""Boxes of photographs: from pixels to the unit square, turned upright, clipped.

Once a box is a fraction of its image, every image is a canvas of 1 x 1, so the boxes of a whole
data set are one `torchvision.tv_tensors.BoundingBoxes` and its transforms serve them all at once.
"""

from __future__ import annotations

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

__all__ = ["clip", "turn_upright", "unit_boxes"]

# What brings the stored raster upright, by EXIF orientation: exchange of the axes, then a
# left-right flip, then a top-bottom flip.
_STEPS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def unit_boxes(pixels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes as fractions of their images.

    Args:
        pixels: (M, 4) ``xyxy`` in pixels, as edges: a box around all of an image w wide ends at w.
        sizes: (M, 2) width and height of each box's image in pixels.

    Returns:
        (M, 4) float64; outside [0, 1] where a box leaves its image.
    """
    return np.asarray(pixels, dtype=np.float64).reshape(-1, 4) / np.tile(sizes, (1, 2))


def turn_upright(boxes: np.ndarray, orientations: np.ndarray) -> np.ndarray:
    """Boxes of the stored raster as boxes of the image that is shown.

    Args:
        boxes: (M, 4) ``xyxy`` in fractions of the stored raster.
        orientations: (M,) the EXIF orientation, 1 to 8, of each box's image.
    """
    boxes = boxes.copy()
    for orientation, (exchange, mirror, overturn) in _STEPS.items():
        chosen = orientations == orientation
        if not chosen.any():
            continue
        turned = boxes[chosen][:, [1, 0, 3, 2]] if exchange else boxes[chosen]
        canvas = _canvas(turned)
        if mirror:
            canvas = F.horizontal_flip(canvas)
        if overturn:
            canvas = F.vertical_flip(canvas)
        boxes[chosen] = canvas.numpy()
    return boxes


def clip(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes cut off at the edges of their images.

    Args:
        boxes: (M, 4) ``xyxy`` in fractions of the image.

    Returns:
        The boxes (M, 4) in [0, 1]; (M,) which of them reached outside; (M,) which have no area
        left.
    """
    inside = F.clamp_bounding_boxes(_canvas(boxes)).numpy()
    empty = (boxes[:, :2] >= boxes[:, 2:]).any(axis=1) | (inside[:, :2] >= inside[:, 2:]).any(
        axis=1
    )
    return inside, (inside != boxes).any(axis=1), empty


def _canvas(boxes: np.ndarray) -> BoundingBoxes:
    return BoundingBoxes(
        torch.from_numpy(np.ascontiguousarray(boxes)),
        format=BoundingBoxFormat.XYXY,
        canvas_size=(1, 1),
    )
