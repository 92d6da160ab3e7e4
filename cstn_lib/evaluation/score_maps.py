"""Boxes from score maps, as the field draws and judges them.

A score map becomes a box in four steps (Zhou et al., "Learning Deep Features for Discriminative
Localization", CVPR 2016, section 3): bring its values to [0, 1], resize it to the image, keep the
pixels that reach a threshold, draw the tight box around the largest connected component.

Choe et al. ("Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020) made the
threshold a hyper-parameter of the evaluation. So the predictions table holds, image by image, the
largest component's box at each of `THRESHOLDS` and, for MaxBoxAccV2, the best IoU of *all*
components' boxes; `cstn_lib.evaluation.metrics` does the rest without a map.

Conventions:

* a pixel is active when its value is *at least* the threshold: 0 makes the whole image active;
* pixels are connected to all 8 neighbours, as contours are in the evaluation code of Choe et al.;
* the largest component has the most pixels; of equal ones the first in scan order is taken;
* pixel i of n covers [i / n, (i + 1) / n] of the image;
* a flat map is zero everywhere, and where nothing is active the box is the empty (0, 0, 0, 0).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from cstn_lib.evaluation.boxes import BoxList, best_iou

THRESHOLDS = tuple(i / 50 for i in range(50))
"""0.00, 0.02 ... 0.98: the thresholds tried."""

CAM_THRESHOLD = 0.2
"""A fixed threshold, one of `THRESHOLDS`, after the 20 % of Zhou et al. (section 3).

Theirs are 20 % of the map's maximum, with negative values cut off; these are 20 % of its range. A
map with negative values has a larger box here, one without small values too.
"""

CHUNK = 16
"""Images whose planes are labelled together: more would not stay in the processor's cache."""


def resized(maps: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Maps (B, h, w) resized bilinearly to (B, H, W), the height and width of the image.

    A cell lies in the middle of its share of the image, [i / h, (i + 1) / h], as in the evaluation
    code of Choe et al. Strided convolutions with padding look from half a stride further up and
    left; drawn there, all methods with score maps are 2 to 5 points worse on val.
    """
    image = F.interpolate(maps[:, None], image_size, mode="bilinear", align_corners=False)
    return image[:, 0]


class Components(NamedTuple):
    """The connected components of P planes: by plane, from the largest to the smallest.

    Attributes:
        plane: (M,) int64 in [0, P), ascending.
        pixels: (M,) how many each has.
        boxes: (M, 4) float32 tight boxes, ``xyxy`` in [0, 1].
    """

    plane: np.ndarray
    pixels: np.ndarray
    boxes: np.ndarray


def components(active: np.ndarray) -> Components:
    """The 8-connected components of planes (P, H, W) of booleans.

    All planes are labelled in one call, laid below each other with an empty row between; an empty
    column at the end of each row makes a run of active pixels end there.
    """
    planes, height, width = active.shape
    field = np.zeros((planes, height + 1, width + 1), dtype=bool)
    field[:, :height, :width] = active
    labels, _ = ndimage.label(field.reshape(-1, width + 1), np.ones((3, 3)))
    # everything else is told by the runs, of which there are far fewer than pixels
    flat = np.concatenate([[False], field.ravel()])
    start = np.flatnonzero(flat[1:] > flat[:-1])
    end = np.flatnonzero(flat[1:] < flat[:-1])
    owner = labels.ravel()[start]
    order = np.argsort(owner, kind="stable")  # by component, within it in scan order
    start, end = start[order], end[order]
    first = np.flatnonzero(np.diff(owner[order], prepend=0))  # the first run of each component
    if not len(first):
        return Components(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4), np.float32))
    row, left = np.divmod(start, width + 1)
    plane, row = np.divmod(row, height + 1)
    boxes = np.stack(
        [
            np.minimum.reduceat(left, first) / width,
            row[first] / height,
            np.maximum.reduceat(left + end - start, first) / width,
            (np.maximum.reduceat(row, first) + 1) / height,
        ],
        axis=1,
    ).astype(np.float32)
    pixels = np.add.reduceat(end - start, first)
    by_size = np.lexsort((start[first], -pixels, plane[first]))
    return Components(plane[first][by_size], pixels[by_size], boxes[by_size])


def boxes_at(
    maps: np.ndarray, thresholds: tuple[float, ...], truth: BoxList
) -> tuple[np.ndarray, np.ndarray]:
    """What each threshold makes of each map.

    Args:
        maps: (B, H, W) float32 in [0, 1], of the images' size.
        truth: the ground-truth boxes of the B images.

    Returns:
        the largest component's boxes (B, T, 4), float32 ``xyxy`` in [0, 1], empty where nothing is
        active; and the best IoU with the ground truth over all components, (B, T).
    """
    levels = np.asarray(thresholds, dtype=maps.dtype)[:, None, None]
    largest = np.zeros((len(maps), len(thresholds), 4), np.float32)
    anywhere = np.zeros((len(maps), len(thresholds)))
    for begin in range(0, len(maps), CHUNK):
        active = maps[begin : begin + CHUNK, None] >= levels
        found = components(active.reshape(-1, *maps.shape[1:]))
        image, level = np.divmod(found.plane, len(thresholds))
        ious = best_iou(found.boxes[:, None], truth.take(image + begin))[:, 0]
        np.maximum.at(anywhere, (image + begin, level), ious)
        leading = np.flatnonzero(np.diff(found.plane, prepend=-1))
        largest[image[leading] + begin, level[leading]] = found.boxes[leading]
    return largest, anywhere
