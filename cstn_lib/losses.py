"""The training objective (Eq. 2, 3 and 4).

    L = L_cls + lambda * L_theta + alpha * L_scale

Two more are ours. With `level_loss` each level learns to tell the class by itself, so that levels
compete by what they see of an object and not by which of them learned first (notebook 04).
`box_loss` serves self-training alone (notebook 16), and is no part of `total_loss`.

Each function returns one value per image, (B,); `total_loss` takes means over the batch. The
authors' code adds L_theta and L_scale up over its batch of 16 images while it averages L_cls: per
example, as Eq. 4 is written, their lambda and alpha act 16 times as strongly as the printed ones.
Here `lambda_theta` and `alpha_scale` are those of Eq. 4, per example; `authors_weight` converts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from cstn_lib.geometry import identity_theta
from cstn_lib.joint import class_log_prob

AUTHORS_BATCH = 16


def classification_loss(log_joint: Tensor, target: Tensor) -> Tensor:
    """L_cls: -log p(c*) with p(c) the joint summed over locations and scales.

    Args:
        log_joint: (B, C, N) of `joint_log_prob`.
        target: (B,) int64 true classes c*.

    Returns:
        (B,), non-negative.
    """
    return -class_log_prob(log_joint).gather(1, target.unsqueeze(1)).squeeze(1)


def theta_loss(thetas: Sequence[Tensor]) -> Tensor:
    """L_theta (Eq. 2): squared distance of every theta to the identity, summed over all locations.

    Args:
        thetas: (B, h_s, w_s, 2, 3), one per level; not one tensor, or a ValueError is raised.

    Returns:
        (B,), non-negative.
    """
    if isinstance(thetas, Tensor):
        raise ValueError("theta_loss: expected a list of thetas, one per level, not one tensor")
    per_level = [(theta - identity_theta(theta)).square().flatten(1).sum(dim=1) for theta in thetas]
    return torch.stack(per_level).sum(dim=0)


def scale_loss(log_joint: Tensor, target: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """L_scale (Eq. 3): how far a finer level's best location beats the next coarser level's.

    For the true class c* (the paper's c* is the predicted one) and levels s1, s2 next to each
    other, finest first, max(0, max_l p(s1, l, c*) - max_l p(s2, l, c*)); summed over such pairs.
    One level costs nothing.

    Args:
        log_joint: (B, C, N) of `joint_log_prob`, levels from the finest to the coarsest.
        target: (B,) int64 true classes c*.
        sizes: (h_s, w_s) of each level.

    Returns:
        (B,) in [0, 1].
    """
    rows = torch.arange(len(target), device=target.device)
    per_level = log_joint[rows, target].split([h * w for h, w in sizes], dim=1)
    best = torch.stack([level.amax(dim=1) for level in per_level], dim=1).exp()  # (B, S)
    return (best[:, :-1] - best[:, 1:]).clamp(min=0).sum(dim=1)


def level_loss(log_joint: Tensor, target: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """-log p(c* | s), the mean over the levels s: what each level alone says of the class.

    Not in the paper. One level has p(c | s) = p(c): the classification loss once more.

    Args:
        log_joint, target, sizes: as of `scale_loss`.

    Returns:
        (B,), non-negative.
    """
    rows = torch.arange(len(target), device=target.device)
    per_level = log_joint.split([h * w for h, w in sizes], dim=2)
    of_class = [level[rows, target].logsumexp(1) - level.logsumexp((1, 2)) for level in per_level]
    return -torch.stack(of_class).mean(dim=0)


def box_loss(log_joint: Tensor, boxes: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """How far the boxes of the true class are from a known one, 1 - GIoU, weighted by p(l, s | c*).

    Not in the paper: in self-training the known boxes are what `cstn_lib.evaluation.choosing` makes
    of an earlier network's votes (notebook 16). The weights get no gradient: windows move, votes
    do not.

    Args:
        log_joint, target: as of `classification_loss`.
        boxes: (B, N, 4) of all locations, ``xyxy`` in [0, 1].
        known: (B, 4).

    Returns:
        (B,) in [0, 2].
    """
    rows = torch.arange(len(target), device=target.device)
    weights = log_joint[rows, target].detach().softmax(dim=1)
    distances = generalized_box_iou_loss(boxes, known[:, None].expand_as(boxes))
    return (weights * distances).sum(dim=1)


def total_loss(
    log_joint: Tensor,
    thetas: Sequence[Tensor],
    target: Tensor,
    sizes: Sequence[tuple[int, int]],
    *,
    lambda_theta: float,
    alpha_scale: float,
    level_weight: float = 0.0,
) -> dict[str, Tensor]:
    """L (Eq. 4) and its terms, each a mean over the batch.

    Args:
        level_weight: of `level_loss`; 0, as in the paper, leaves Eq. 4.

    Returns:
        scalars ``loss``, ``loss_cls``, ``loss_theta``, ``loss_scale`` and, where it has a weight,
        ``loss_level``; all but the first without their weights. Without thetas ``loss_theta`` is 0.
    """
    cls = classification_loss(log_joint, target).mean()
    theta = theta_loss(thetas).mean() if thetas else torch.zeros_like(cls)
    scale = scale_loss(log_joint, target, sizes).mean()
    loss = cls + lambda_theta * theta + alpha_scale * scale
    terms = {"loss_cls": cls, "loss_theta": theta, "loss_scale": scale}
    if level_weight:
        terms["loss_level"] = level_loss(log_joint, target, sizes).mean()
        loss = loss + level_weight * terms["loss_level"]
    return {"loss": loss, **terms}


def authors_weight(printed: float, batch: int = AUTHORS_BATCH) -> float:
    """The weight of Eq. 4, per example, that a printed lambda or alpha has in the authors' code.

    Their penalty is a sum over the batch, their classification loss a mean: a factor of `batch`.
    """
    return printed * batch
