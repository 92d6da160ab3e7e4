"""From all votes for a class to one box, with nothing learned and no box label.

The paper takes the box of the most probable location (section III-B), and names a better choice as
its open problem: the right box is mostly among the candidates. The votes of one class are a
distribution over boxes, and each chooser here makes one box of it. They are called alike:

    box = chooser(log_p, boxes)

with log_p (B, N), log p(l, s | c) up to a number per image, such as ``log_joint[rows, classes]`` or
the class's raw scores; boxes (B, N, 4), ``xyxy`` in [0, 1]; and box (B, 4).

All but `map_box` weigh votes by p to the power `EXPONENT`, renormalised: a network trained on
classes alone is surer of its location than it has reason to be. This exponent and `OVERLAP` were
chosen on the val splits. A network whose votes are flat, because every location sees the whole
image, wants a smaller exponent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import box_iou

Chooser = Callable[[Tensor, Tensor], Tensor]

EXPONENT = 0.5
"""Of p in the weights: 1 leaves p as it is, 0 counts every vote alike."""

OVERLAP = 0.3
"""The IoU with the most probable box from which a box takes part in the mean of `fused`."""

MOST = 100
"""How many votes, the heaviest of an image, count where each is compared with each."""


def map_box(log_p: Tensor, boxes: Tensor) -> Tensor:
    """The box of the most probable location, as in the paper."""
    return _at(boxes, log_p.argmax(dim=1))


def tempered_mean(log_p: Tensor, boxes: Tensor) -> Tensor:
    """The weighted mean of all boxes."""
    return _mean(_weights(log_p), boxes)


def fused(log_p: Tensor, boxes: Tensor) -> Tensor:
    """The weighted mean of the boxes that overlap `map_box` by `OVERLAP` at least.

    Weighted boxes fusion (Solovyev et al., Image and Vision Computing 2021, section 3), of the
    cluster of the most probable box alone. Its time grows with N.
    """
    best = log_p.argmax(dim=1, keepdim=True)
    near = torch.vmap(box_iou)(_at(boxes, best.squeeze(1))[:, None], boxes).squeeze(1) >= OVERLAP
    near.scatter_(1, best, True)  # though it be empty
    return _mean(_weights(log_p) * near, boxes)


def highest_expected_iou(log_p: Tensor, boxes: Tensor) -> Tensor:
    """The box that overlaps most with the others, argmax over n of sum_m w_m IoU(b_n, b_m).

    Where the true box is one of the votes with the probability w, this choice has the highest IoU
    with it that any of them can expect; the most probable box need not.
    """
    weights, boxes = _heaviest(log_p, boxes)
    at_once = 8 if len(boxes) else None  # images that the cache holds
    ious = torch.vmap(box_iou, chunk_size=at_once)(boxes, boxes)
    expected = ious.nan_to_num(0.0) @ weights[..., None]
    return _at(boxes, expected.squeeze(2).argmax(dim=1))


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
    "fused": fused,
    "highest expected IoU": highest_expected_iou,
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


def _weights(log_p: Tensor) -> Tensor:
    """(B, N), the sum of an image is 1."""
    return (EXPONENT * log_p).softmax(dim=1)


def _mean(weights: Tensor, boxes: Tensor) -> Tensor:
    """(B, 4), whatever the weights (B, N) sum to."""
    # no matrix product, which autocast would round
    return (weights[..., None] * boxes).sum(dim=1) / weights.sum(dim=1, keepdim=True)


def _heaviest(log_p: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The weights (B, n) and boxes (B, n, 4) of the `MOST` heaviest votes."""
    best = log_p.topk(min(MOST, log_p.shape[1]), dim=1)
    return _weights(best.values), boxes.gather(1, best.indices[..., None].expand(-1, -1, 4))


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
