"""Boxes and how much they overlap, for any number of ground-truth boxes per image.

Boxes are ``xyxy`` in [0, 1] of the image. Plain numpy, a whole split at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class BoxList(NamedTuple):
    """Any number of boxes per image: rows ``offsets[i]:offsets[i + 1]`` of (M, 4) are image i's."""

    boxes: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, boxes: Sequence[np.ndarray]) -> BoxList:
        """From one array per image, flat or (n, 4)."""
        offsets = np.concatenate([[0], np.cumsum([b.size // 4 for b in boxes])])
        return cls(np.concatenate([b.reshape(-1, 4) for b in boxes]), offsets)

    def take(self, images: np.ndarray) -> BoxList:
        """The boxes of the given images, in that order; an image may come more than once."""
        counts = np.diff(self.offsets)[images]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        rows = np.repeat(self.offsets[images] - offsets[:-1], counts) + np.arange(offsets[-1])
        return BoxList(self.boxes[rows], offsets)


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes (..., 4) with boxes (..., 4), pair by pair; 0 where both are empty."""
    corner = np.maximum(a[..., :2], b[..., :2])
    overlap = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - corner, 0, None).prod(axis=-1)
    union = box_area(a) + box_area(b) - overlap
    return np.divide(overlap, union, out=np.zeros_like(union), where=union > 0)


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Areas (...) of ``xyxy`` boxes (..., 4), as fractions of the image."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)


def best_iou(boxes: np.ndarray, truth: BoxList) -> np.ndarray:
    """IoU of each box with the ground-truth box of its image that it overlaps most.

    Args:
        boxes: (n, k, 4), k boxes per image.

    Returns:
        (n, k); 0 for an image without ground truth.
    """
    counts = np.diff(truth.offsets)
    owners = np.repeat(np.arange(len(boxes)), counts)
    pairs = paired_iou(boxes[owners].astype(np.float64), truth.boxes[:, None].astype(np.float64))
    result = np.zeros(boxes.shape[:2])
    if len(pairs):
        result[counts > 0] = np.maximum.reduceat(pairs, truth.offsets[:-1][counts > 0])
    return result
