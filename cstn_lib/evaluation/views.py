"""Three views of an image, and what a network makes of all of them together.

A window that is too small for an object fits it where the object is smaller, and one that is too
large where it is larger. So the network also looks at the image shrunk into a canvas of its mean
colour, and at a crop around what it found. A view is told by its *frame*, the box of the canvas in
the image's own coordinates: the wide one begins below 0 and ends above 1.

* Votes of all views compete in one softmax (Eq. 1, over views as well): raw scores are compared,
  for probabilities of a view sum to 1 whatever is in it. Boxes are brought back to the image, and
  `cstn_lib.evaluation.choosing.fused` makes one of them.
* Score maps (CAM and its kin) are pasted back into the image and averaged, again as they are.

A network is asked once per view, three times instead of once; classes stay those of the image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cstn_lib.evaluation.choosing import fused, hull
from cstn_lib.evaluation.predictions import CLASS_COLUMNS, describe
from cstn_lib.joint import joint_log_prob
from cstn_lib.outputs import LocalizerOutput, ScoreMapOutput, normalized

Network = Callable[[Tensor], "LocalizerOutput | ScoreMapOutput"]

MARGIN = 1.3
"""The side of the wide canvas in sides of the image, and of the crop in the longer sides of the box
that it is made around; chosen on the val splits."""

SMALLEST = 0.3
"""The least side of a crop, in sides of the image."""


def describe_views(network: Network, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The columns of the predictions table for three views, see `judge`.

    Args:
        network: what `images` are given to; a `Localizer`, possibly wrapped.
        images: (B, 3, H, W), uint8 in [0, 255] or float in [0, 1].
        labels: (B,) int64 true classes.

    Returns:
        tensors with B rows: the classes and their probabilities, as of the image alone; and of
        votes the one ``true_box`` and the ``boxes`` (B, N, 4) of all views, or of score maps their
        mean ``score_map`` (B, H, W) for the true class.
    """
    output = network(images)
    alone = describe(output, labels)
    columns = {name: alone[name] for name in CLASS_COLUMNS}
    votes = isinstance(output, LocalizerOutput)
    found = alone["true_fused_box"] if votes else _upper_half(alone["score_map"])
    frames = frames_around(found)
    outputs = [output, *(network(seen_through(images, frame)) for frame in frames[1:])]
    rows = torch.arange(len(labels), device=labels.device)
    if not votes:
        maps = torch.stack([each.maps[rows, labels].float() for each in outputs])
        return columns | {"score_map": pasted(maps, torch.stack(frames), images.shape[2:])}
    scores = [score.float() for each in outputs for score in each.scores]
    log_p = joint_log_prob(scores)[rows, labels]
    boxes = [in_image(of.boxes, frame) for of, frame in zip(outputs, frames, strict=True)]
    boxes = torch.cat(boxes, dim=1)
    return columns | {"true_box": fused(log_p, boxes), "boxes": boxes}


def frames_around(found: Tensor) -> list[Tensor]:
    """The frames (B, 4) of the image, the wide view and the crop, a square inside the image.

    Args:
        found: (B, 4) the box in each image that the crop is made around, ``xyxy`` in [0, 1].
    """
    image = torch.tensor([0.0, 0.0, 1.0, 1.0], device=found.device).expand(len(found), 4)
    longer = (found[:, 2:] - found[:, :2]).amax(dim=1, keepdim=True)
    half = (MARGIN * longer).clamp(SMALLEST, 1) / 2
    centre = ((found[:, :2] + found[:, 2:]) / 2).clamp(half, 1 - half)
    return [image, 0.5 + MARGIN * (image - 0.5), torch.cat([centre - half, centre + half], dim=1)]


def seen_through(images: Tensor, frames: Tensor) -> Tensor:
    """What lies in a frame of each image, as an image of the same size; outside is its mean colour.

    Args:
        images: (B, 3, H, W), uint8 in [0, 255] or float in [0, 1].
        frames: (B, 4) ``xyxy``, 0 and 1 at the ends of the image.

    Returns:
        (B, 3, H, W) float in [0, 1].
    """
    pixels = images.float() / (255 if images.dtype == torch.uint8 else 1)
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    low, high = 2 * frames[:, :2] - 1, 2 * frames[:, 2:] - 1  # as grid_sample counts
    theta = torch.cat([torch.diag_embed((high - low) / 2), ((high + low) / 2)[..., None]], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    seen = F.grid_sample(pixels - mean, grid, align_corners=False) + mean
    return seen.to(memory_format=torch.channels_last)


def in_image(boxes: Tensor, frames: Tensor) -> Tensor:
    """Boxes (B, N, 4) of views with the frames (B, 4), in the image's coordinates and inside it."""
    low, high = frames[:, None, [0, 1, 0, 1]], frames[:, None, [2, 3, 2, 3]]
    return (low + boxes * (high - low)).clamp(0, 1)


def pasted(maps: Tensor, frames: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The mean at every pixel of the image over the views that see it.

    Args:
        maps: (V, B, h, w) score maps; cells lie as in `cstn_lib.evaluation.score_maps.resized`.
        frames: (V, B, 4) of the views; some view sees all of the image.
        image_size: height H and width W in pixels.

    Returns:
        (B, H, W).
    """

    def weights(cells: int, pixels: int, low: Tensor, high: Tensor) -> Tensor:
        middle = (torch.arange(pixels, device=maps.device) + 0.5) / pixels
        place = (middle - low[..., None]) / (high - low)[..., None]  # (V, B, pixels)
        at = (place * cells - 0.5).clamp(0, cells - 1)[..., None]
        near = (1 - (at - torch.arange(cells, device=maps.device)).abs()).clamp(min=0)
        return near * ((place >= 0) & (place <= 1))[..., None]

    left, top, right, bottom = frames.unbind(-1)
    rows = weights(maps.shape[2], image_size[0], top, bottom)
    columns = weights(maps.shape[3], image_size[1], left, right).transpose(2, 3)
    total, seen = ((rows @ of @ columns).sum(dim=0) for of in (maps, torch.ones_like(maps)))
    return total / seen


def _upper_half(maps: Tensor) -> Tensor:
    """(B, 4) the box around all cells in the upper half of the range of maps (B, h, w)."""
    rows, columns = (torch.linspace(0, 1, n + 1, device=maps.device)[None] for n in maps.shape[1:])
    return hull(normalized(maps) >= 0.5, columns, rows)
