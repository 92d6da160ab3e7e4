"""The joint distribution over class, location and scale (Eq. 1, sections III-A and III-B).

A convolutional classifier votes at every location of every pyramid level for every class. The paper
makes all these votes compete in **one** softmax,

    p(c, l, s) = exp(f[c, l, s]) / sum over c', l', s' of exp(f[c', l', s']),

so that classifying and localizing read the same numbers: summing over locations and scales gives
p(c), which is trained with cross-entropy; the largest entry says what and where (`map_estimate`).
The metrics first take the class of the largest p(c) and then its best location (`top_locations`).

Everything stays in log space: one log-softmax, and log-sum-exp for each marginal. Locations of all
levels are laid end to end in one axis of length N = sum of h_s * w_s; `locations` names its
entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Locations(NamedTuple):
    """What each entry of the location axis stands for; three int64 tensors of shape (N,)."""

    level: Tensor
    row: Tensor
    column: Tensor


def joint_log_prob(scores: Tensor | Sequence[Tensor]) -> Tensor:
    """Log of the joint distribution of Eq. 1, extended to scales (III-B).

    Args:
        scores: one map of class scores (B, C, h_s, w_s) per level, in the order of the levels, or
            a single map. B and C agree between levels, sizes may differ.

    Returns:
        (B, C, N) log p(c, l, s), in float32 at least: in bfloat16 they would not sum to 1.

    Raises:
        ValueError: no level is given, or the levels disagree in batch or classes.
    """
    maps = [scores] if isinstance(scores, Tensor) else list(scores)
    if not maps:
        raise ValueError("joint_log_prob needs the scores of at least one level")
    expected = maps[0].shape[:2]
    for level, score in enumerate(maps):
        if score.dim() != 4 or score.shape[:2] != expected:
            raise ValueError(
                f"scores of level {level} have shape {tuple(score.shape)}, "
                f"expected ({expected[0]}, {expected[1]}, h, w)"
            )
    flat = torch.cat([score.flatten(2) for score in maps], dim=2)  # (B, C, N)
    wide = torch.promote_types(flat.dtype, torch.float32)
    return flat.flatten(1).log_softmax(dim=1, dtype=wide).view_as(flat)


def locations(sizes: Sequence[tuple[int, int]], device: torch.device | None = None) -> Locations:
    """The level, row and column of each entry of the location axis.

    Args:
        sizes: (h_s, w_s) of each level, in the order given to `joint_log_prob`.
    """
    parts = [
        torch.cartesian_prod(
            torch.tensor([level], device=device),
            torch.arange(height, device=device),
            torch.arange(width, device=device),
        )
        for level, (height, width) in enumerate(sizes)
    ]
    return Locations(*torch.cat(parts).unbind(dim=1))


def class_log_prob(log_joint: Tensor) -> Tensor:
    """log p(c): the joint (B, C, N) summed over locations and scales, (B, C)."""
    return log_joint.logsumexp(dim=2)


def location_log_prob(log_joint: Tensor) -> Tensor:
    """log p(l, s): the joint (B, C, N) summed over classes, (B, N)."""
    return log_joint.logsumexp(dim=1)


def level_log_prob(log_joint: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """log p(s): the joint (B, C, N) summed over classes and the locations of each level, (B, S)."""
    per_level = location_log_prob(log_joint).split([h * w for h, w in sizes], dim=1)
    return torch.stack([part.logsumexp(dim=1) for part in per_level], dim=1)


def map_estimate(log_joint: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable class and location: argmax over (c, l, s) of the joint (B, C, N).

    Returns:
        class (B,) in [0, C) and location (B,) in [0, N), both int64.
    """
    best = log_joint.flatten(1).argmax(dim=1)
    return best // log_joint.shape[2], best % log_joint.shape[2]


def top_locations(log_joint: Tensor, classes: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k best locations of one given class per image.

    With the true class this is the GT-Known box of section IV-A, with the predicted class the
    Top-1 box; k = 5 gives the Top-5 boxes.

    Args:
        log_joint: (B, C, N).
        classes: (B,) int64.
        k: how many, at most N; with fewer locations all of them are returned.

    Returns:
        log p(c, l, s) in descending order (B, k) and their locations (B, k).
    """
    rows = torch.arange(len(log_joint), device=log_joint.device)
    of_class = log_joint[rows, classes]  # (B, N)
    values, indices = of_class.topk(min(k, of_class.shape[1]), dim=1)
    return values, indices
