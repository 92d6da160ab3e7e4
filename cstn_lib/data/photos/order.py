"""The order of a split's photos, and which of them are held back for val.

Both follow from the photos' names alone: not from the order of a list or a folder, nor from the
presence of other classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

import numpy as np

from cstn_lib.support.errors import InputError

_HELD_BACK = 0.1  # of each class of a training folder: the val split


def balanced_order(files: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """The rows in the order of a split: the first of each class, the second of each, and so on.

    Any first part of a split is so spread evenly over its classes. Within a class the order is a
    shuffle fixed by the hashes of the names.

    Args:
        files: N names.
        labels: (N,) class of each.

    Returns:
        (N,) a permutation.
    """
    return np.lexsort((labels, _place_in_class(files, labels)))


def hold_back(files: Sequence[str], labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Which photos are kept from training: (N,) booleans.

    Args:
        counts: (classes,) how many of each class: its first ones in the `balanced_order`.
    """
    return _place_in_class(files, labels) < counts[labels]


def train_or_val(
    split: str,
    files: Sequence[str],
    labels: np.ndarray,
    where: Callable[[int], str],
    most: float = np.inf,
) -> np.ndarray:
    """The rows of a training folder that belong to ``"train"`` or to ``"val"``.

    A tenth of each class is val, rounded, at least one photo and at most `most`.

    Args:
        where: names the photo of a row, for the message.

    Raises:
        InputError: a class has one photo alone.
    """
    sizes = np.bincount(labels)
    alone = np.flatnonzero(sizes[labels] == 1)
    if len(alone):
        raise InputError(
            f"{where(alone[0])}: the only image of its class, expected at least 2: "
            "one is held back as val"
        )
    held = hold_back(files, labels, np.clip(np.round(_HELD_BACK * sizes), 1, most))
    return np.flatnonzero(held == (split == "val"))


def _place_in_class(files: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """(N,) the place of each photo in the fixed shuffle of its class."""
    digests = b"".join(sha256(file.encode()).digest()[:8] for file in files)
    order = np.lexsort((np.frombuffer(digests, ">u8"), labels))
    first = np.searchsorted(labels[order], labels[order])  # where its class begins
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order)) - first
    return places
