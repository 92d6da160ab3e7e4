"""What the rules have in common: differences with intervals, and what these prove.

Percentage points throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cstn_lib.evaluation.metrics import Interval
from cstn_lib.evaluation.predictions import array
from cstn_lib.reproduction import areas
from cstn_lib.reproduction.claims.claim import HOLDS, HOLDS_IN_PART, HOLDS_NOT, Measured
from cstn_lib.reproduction.comparison import hits_on_test, paired_difference
from cstn_lib.reproduction.runs import Run

__all__ = [
    "above_zero",
    "default_loc",
    "gap",
    "interval_text",
    "left_open",
    "levels_won",
    "points",
    "rate",
    "share",
    "within",
]


def points(interval: Interval) -> Interval:
    return Interval(*(100 * end for end in interval))


def gap(ours: Sequence[Run], theirs: Sequence[Run], metric: str) -> Interval:
    """Ours less theirs in points, image by image."""
    return points(paired_difference(ours, theirs, metric))


def above_zero(measured: Sequence[Measured]) -> str:
    """All intervals above zero: holds; some: in part; none: not."""
    above = [m.here.low > 0 for m in measured]
    return HOLDS if all(above) else HOLDS_IN_PART if any(above) else HOLDS_NOT


def within(measured: Sequence[Measured]) -> str:
    """All intervals within the tolerance: holds; all means, or some intervals: in part."""
    inside = [-m.within < m.here.low and m.here.high < m.within for m in measured]
    near = [abs(m.here.mean) < m.within for m in measured]
    return HOLDS if all(inside) else HOLDS_IN_PART if all(near) or any(inside) else HOLDS_NOT


def left_open(measured: Sequence[Measured]) -> str:
    """What the intervals leave open, to be put before an explanation."""
    some = [m.what for m in measured if m.here.low <= 0 <= m.here.high]
    if not some:
        return ""
    return "the sign is open; " if len(measured) == 1 else f"open: {', '.join(some)}; "


def share(right: np.ndarray) -> float:
    """Percent."""
    return 100 * float(np.mean(right))


def rate(runs: Sequence[Run], metric: str) -> float:
    """Percent of images, over the seeds."""
    return float(np.mean([share(hits_on_test(run)[metric]) for run in runs]))


def default_loc(runs: Sequence[Run]) -> float:
    """Top-1 Loc in percent of the default boxes at the winning locations."""
    return share(areas.stacked_hits(runs, "top1_loc", transform=False))


def levels_won(runs: Sequence[Run]) -> np.ndarray:
    """(seeds, n) the level of each image's winning location under the true class."""
    return np.stack([array(run.predictions(), "true_level")[:, 0] for run in runs])


def interval_text(interval: Interval) -> str:
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*interval)
