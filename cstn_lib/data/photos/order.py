"""The order of a split's photos, and which of them are held back for val.

Both follow from the photos' names alone: not from the order of a list or a folder, nor from the
presence of other classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import pandas as pd


def balanced_order(names: Sequence[str], labels: Sequence[int]) -> np.ndarray:
    """The rows in the order of a split: the first of each class, the second of each, and so on.

    Any first part of a split is so spread evenly over its classes. Within a class the order is a
    shuffle fixed by the hashes of the names.

    Args:
        names: N names.
        labels: (N,) class of each.

    Returns:
        (N,) a permutation.
    """
    return np.lexsort((labels, place_in_class(names, labels)))


def place_in_class(names: Sequence[str], labels: Sequence[int]) -> np.ndarray:
    """(N,) the place of each photo in the fixed shuffle of its class, from 0 on."""
    hashes = [int.from_bytes(sha256(name.encode()).digest()[:8], "big") for name in names]
    shuffled = pd.DataFrame({"label": labels, "hash": hashes}).sort_values("hash", kind="stable")
    return shuffled.groupby("label").cumcount().sort_index().to_numpy()
