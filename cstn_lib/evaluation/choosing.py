"""From all votes for a class to one box, with nothing learned and no box label.

The paper takes the box of the most probable location (section III-B), and names a better choice as
its open problem: the right box is mostly among the candidates. The votes of one class are a
distribution over boxes, and each chooser here makes one box of it. They are called alike:

    box = chooser(log_p, boxes)

with log_p (B, N), log p(l, s | c) up to a number per image, such as ``log_joint[rows, classes]`` or
the class's raw scores; boxes (B, N, 4), ``xyxy`` in [0, 1]; and box (B, 4).

All but `map_box` weigh votes by p to the power `EXPONENT`, renormalised: a network trained on
classes alone is surer of its location than it has reason to be. Of each image the `MOST` heaviest
votes count, so that time grows with B * MOST^2 at most.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import box_iou

Chooser = Callable[[Tensor, Tensor], Tensor]

EXPONENT = 0.25
"""Of p in the weights: 1 leaves p as it is, 0 counts every vote alike."""

OVERLAP = 0.5
"""The IoU from which a box takes part in the mean of `fused`."""

MOST = 200
"""How many votes of an image count."""


def map_box(log_p: Tensor, boxes: Tensor) -> Tensor:
    """The box of the most probable location, as in the paper."""
    return _at(boxes, log_p.argmax(dim=1))


def tempered_mean(log_p: Tensor, boxes: Tensor) -> Tensor:
    """The weighted mean of all boxes."""
    weights, boxes = _heaviest(log_p, boxes)
    return (weights[:, None] @ boxes).squeeze(1)


def highest_expected_iou(log_p: Tensor, boxes: Tensor) -> Tensor:
    """The box that overlaps most with the others, argmax over n of sum_m w_m IoU(b_n, b_m).

    Where the true box is one of the votes with the probability w, this choice has the highest IoU
    with it that any of them can expect; the most probable box need not.
    """
    weights, boxes = _heaviest(log_p, boxes)
    return _at(boxes, _expected(weights, _ious(boxes)).argmax(dim=1))


def fused(log_p: Tensor, boxes: Tensor) -> Tensor:
    """The weighted mean of the boxes that overlap `highest_expected_iou`'s by `OVERLAP` at least.

    Weighted boxes fusion (Solovyev et al., Image and Vision Computing 2021, section 3), of one
    cluster, around that box instead of the most probable.
    """
    weights, boxes = _heaviest(log_p, boxes)
    ious = _ious(boxes)
    around = _at(ious, _expected(weights, ious).argmax(dim=1))  # (B, N)
    weights = weights * (around >= OVERLAP)
    return (weights[:, None] @ boxes).squeeze(1) / weights.sum(dim=1, keepdim=True)


def coverage(log_p: Tensor, boxes: Tensor) -> Tensor:
    """The tight box around the points that half of the most covered point's votes cover.

    M(x) = sum_n w_n [x in b_n] is constant between neighbouring edges of boxes, so one value for
    each pair of such intervals, in x and in y, tells all of it: nothing is rounded to pixels.
    """
    weights, boxes = _heaviest(log_p, boxes)
    inside, edges = zip(*map(_strips, boxes.unbind(-1)[:2], boxes.unbind(-1)[2:]), strict=True)
    covered = (inside[1] * weights[..., None]).transpose(1, 2) @ inside[0]  # (B, rows, columns)
    active = covered >= covered.amax(dim=(1, 2), keepdim=True) / 2
    return hull(active, *edges)


CHOOSERS: dict[str, Chooser] = {
    "MAP": map_box,
    "tempered mean": tempered_mean,
    "highest expected IoU": highest_expected_iou,
    "fused": fused,
    "coverage": coverage,
}
"""Every chooser, by the name that tables print."""


def hull(active: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """The tight boxes (B, 4) around all active cells of grids (B, h, w), some in each.

    Args:
        columns, rows: (B, w + 1) and (B, h + 1) edges of the cells; B may be 1.
    """
    ends = [
        torch.stack(
            [torch.where(line, at[:, :-1], 2).amin(1), torch.where(line, at[:, 1:], -1).amax(1)],
            dim=1,
        )
        for at, line in ((columns, active.any(dim=1)), (rows, active.any(dim=2)))
    ]
    return torch.stack(ends, dim=2).flatten(1)


def _at(values: Tensor, index: Tensor) -> Tensor:
    """Entry index[b] of values (B, N, ...), of each image."""
    return values[torch.arange(len(values), device=values.device), index]


def _heaviest(log_p: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The weights (B, n), which sum to 1, and the boxes (B, n, 4) of the votes that count."""
    best = log_p.topk(min(MOST, log_p.shape[1]), dim=1)
    boxes = boxes.gather(1, best.indices[..., None].expand(-1, -1, 4))
    return (EXPONENT * best.values).softmax(dim=1), boxes


def _ious(boxes: Tensor) -> Tensor:
    """(B, n, n) IoU of every pair; 1 of a box with itself, also where it is empty."""
    few = torch.vmap(box_iou, chunk_size=8)  # images at once: their pairs stay in the cache
    ious = few(boxes, boxes).nan_to_num(0.0)
    ious.diagonal(dim1=1, dim2=2).fill_(1)
    return ious


def _expected(weights: Tensor, ious: Tensor) -> Tensor:
    """(B, n) the IoU that each box can expect."""
    return (ious @ weights[..., None]).squeeze(2)


def _strips(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The intervals between neighbouring edges, along one side of the image.

    Args:
        low, high: (B, n) where boxes begin and end.

    Returns:
        (B, n, 2 n - 1) 1 where a box covers an interval, and the edges in order (B, 2 n).
    """
    edges = torch.cat([low, high], dim=1).sort(dim=1).values
    middle = ((edges[:, 1:] + edges[:, :-1]) / 2)[:, None]
    return ((low[..., None] < middle) & (middle < high[..., None])).to(low.dtype), edges
