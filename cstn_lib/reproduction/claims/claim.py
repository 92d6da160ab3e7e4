"""What a claim of the paper is, the list of all (`CLAIMS`), and what their rules share.

Rates, differences and intervals are in percentage points throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cstn_lib.evaluation.metrics import Interval, mean_interval
from cstn_lib.evaluation.predictions import array
from cstn_lib.reproduction.comparison import hit_difference, hits_on_test
from cstn_lib.reproduction.runs import Run

HOLDS, HOLDS_IN_PART, UNDECIDED = "holds", "holds in part", "undecided"
HOLDS_NOT, NOT_TESTED = "does not hold", "not tested"
VERDICTS = (HOLDS, HOLDS_IN_PART, UNDECIDED, HOLDS_NOT, NOT_TESTED)

MATTERS = 5.0
"""Points of localization from which on a hyper-parameter or a gap matters."""

BARELY = 2.0
"""Points within which two shares of the images are nearly the same."""

DATASETS = CUB, IMAGENET = ("birds-cub", "birds-ilsvrc")
"""The data sets that take the places of the paper's two."""


@dataclass(frozen=True)
class Measured:
    """One number behind a verdict, in percentage points; it speaks for its claim where positive.

    Attributes:
        what: is subtracted from what.
        here: ours.
        paper: the same from the paper's printed numbers; None where it has none.
        within: where set, the claim says instead that the number lies within plus or minus this.
    """

    what: str
    here: Interval
    paper: float | None = None
    within: float | None = None


class Finding(NamedTuple):
    """What a rule finds: the numbers, one of `VERDICTS`, and a measured explanation in a line."""

    measured: tuple[Measured, ...]
    verdict: str
    why: str


Runs = Mapping[str, Sequence[Run]]
Rule = Callable[[Runs, str], Finding]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        text: in one sentence.
        place: where it stands in the paper.
        rule: when it holds, and where there is such a thing, when in part; otherwise it does not.
        experiments: names of `cstn_lib.reproduction.experiments.EXPERIMENTS`, each with every seed.
        datasets: of `DATASETS`; each is judged by itself.
        condition: under which it is judged here, and which its verdict hangs on.
        decide: applies the rule to the runs of one data set by experiment, and to the name of the
            paper's data set whose place that takes.
    """

    text: str
    place: str
    rule: str
    experiments: tuple[str, ...]
    datasets: tuple[str, ...]
    condition: str
    decide: Rule


@dataclass(frozen=True)
class Verdict:
    """A claim as judged on one data set, with its `Finding`; no numbers where runs are missing."""

    id: str
    claim: Claim
    dataset: str
    measured: tuple[Measured, ...]
    verdict: str
    why: str


CLAIMS: dict[str, Claim] = {}
"""By a short name, in the order of the paper."""


def claim(
    text: str,
    place: str,
    rule: str,
    experiments: tuple[str, ...],
    datasets: tuple[str, ...] = (CUB,),
    *,
    condition: str,
) -> Callable[[Rule], Rule]:
    """Enter the function below in `CLAIMS`, under its name with ``-`` for ``_``."""

    def enter(decide: Rule) -> Rule:
        name = decide.__name__.replace("_", "-")
        CLAIMS[name] = Claim(text, place, rule, experiments, datasets, condition, decide)
        return decide

    return enter


def above_zero(*measured: Measured, why: str) -> Finding:
    """All intervals above zero: holds; some: in part; one below and none above: not.

    Where the intervals leave all signs open, nothing is decided; which are, begins the explanation.
    """
    above, below = (any(sign(m.here) == way for m in measured) for way in (1, -1))
    verdict = verdict_of(
        holds=all(sign(m.here) == 1 for m in measured), in_part=above, refuted=below
    )
    return Finding(measured, verdict, left_open(measured) + why)


def verdict_of(*, holds: bool, in_part: bool = False, refuted: bool) -> str:
    """The first that is true; *undecided* where none is."""
    if holds:
        return HOLDS
    return HOLDS_IN_PART if in_part else HOLDS_NOT if refuted else UNDECIDED


def sign(interval: Interval) -> int:
    """1 where all of it lies above zero, -1 below, 0 where it leaves the sign open."""
    return int(interval.low > 0) - int(interval.high < 0)


def within(*measured: Measured, why: str) -> Finding:
    """All intervals within the tolerance: holds; some: in part; one outside and none within: not.

    Where none is within and all reach into it, nothing is decided.
    """
    inside = [-m.within < m.here.low and m.here.high < m.within for m in measured]
    outside = [m.here.low > m.within or m.here.high < -m.within for m in measured]
    verdict = verdict_of(holds=all(inside), in_part=any(inside), refuted=any(outside))
    return Finding(measured, verdict, why)


def left_open(measured: Sequence[Measured]) -> str:
    """What the intervals leave open, to be put before an explanation."""
    some = [m.what for m in measured if sign(m.here) == 0]
    if not some:
        return ""
    return "the sign is open; " if len(measured) == 1 else f"open: {', '.join(some)}; "


def points(interval: Interval) -> Interval:
    return Interval(*(100 * end for end in interval))


def below(interval: Interval, ceiling: float) -> Interval:
    """How far it lies below a number."""
    return Interval(*(ceiling - end for end in (interval.mean, interval.high, interval.low)))


def mean_points(values: np.ndarray, most: float = 1.0) -> Interval:
    """`mean_interval` in points."""
    return points(mean_interval(values, most))


def gap(ours: Sequence[Run], theirs: Sequence[Run], metric: str) -> Interval:
    """Ours less theirs, image by image."""
    return mean_points(hit_difference(ours, theirs, metric))


def less(ours: float | None, theirs: float | None) -> float | None:
    """The difference of two printed numbers; None where one is missing."""
    return None if ours is None or theirs is None else ours - theirs


def share(right: np.ndarray) -> float:
    """Percent."""
    return 100 * float(np.mean(right))


def rate(runs: Sequence[Run], metric: str) -> float:
    """Percent of images, over the seeds."""
    return float(np.mean([share(hits_on_test(run)[metric]) for run in runs]))


def levels_won(runs: Sequence[Run]) -> np.ndarray:
    """(seeds, n) the level of each image's winning location under the true class."""
    return np.stack([array(run.predictions(), "true_level")[:, 0] for run in runs])


def interval_text(interval: Interval) -> str:
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*interval)
