"""What a claim of the paper is, the evidence that runs give for it, and the rule that weighs it.

Rules ask intervals, never a bare difference: 95 % over the test images and, where there are
several, the seeds (`cstn_lib.evaluation.metrics.mean_interval`). Where an interval leaves a sign
open, a claim of that sign is undecided. Rates, differences and intervals are in percentage points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cstn_lib.evaluation.metrics import Interval, mean_interval
from cstn_lib.evaluation.predictions import array
from cstn_lib.reproduction import areas
from cstn_lib.reproduction.comparison import hit_difference, motion, stacked_hits
from cstn_lib.reproduction.paper import printed_about
from cstn_lib.reproduction.runs import Run

HOLDS, HOLDS_IN_PART, UNDECIDED = "holds", "holds in part", "undecided"
HOLDS_NOT, NOT_TESTED = "does not hold", "not tested"
VERDICTS = (HOLDS, HOLDS_IN_PART, UNDECIDED, HOLDS_NOT, NOT_TESTED)


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

    @property
    def says(self) -> int:
        """1 where all of the interval speaks for the claim, -1 against it, 0 where it is open."""
        if self.within is None:
            return int(self.here.low > 0) - int(self.here.high < 0)
        outside = self.here.low > self.within or self.here.high < -self.within
        return int(-self.within < self.here.low and self.here.high < self.within) - int(outside)


class Finding(NamedTuple):
    """What a rule finds: the numbers, one of `VERDICTS`, and a measured explanation in a line."""

    measured: tuple[Measured, ...]
    verdict: str
    why: str


Row = str | float
"""Of one of the paper's tables: a method, a panel, a lambda."""


@dataclass(frozen=True)
class Evidence:
    """The runs of one data set, by experiment, and what claims ask of them.

    Attributes:
        stands_for: the paper's data set whose place it takes; ``""``: none's.
    """

    runs: Mapping[str, Sequence[Run]]
    stands_for: str

    def hits(self, name: str, metric: str = "gt_known_loc", **options: bool) -> np.ndarray:
        """(seeds, n) booleans: see `cstn_lib.reproduction.comparison.stacked_hits`."""
        return stacked_hits(self.runs[name], metric, **options) == 1

    def rate(self, name: str, metric: str = "gt_known_loc") -> float:
        """Percent of images, over the seeds."""
        return share(self.hits(name, metric))

    def gap(self, ours: str, theirs: str, metric: str = "top1_loc") -> Interval:
        """What one experiment is ahead of another, image by image."""
        return mean_points(hit_difference(self.runs[ours], self.runs[theirs], metric))

    def printed(self, row: Row, column: str = "Top-1 Loc") -> float | None:
        """The paper's number; None where it has none about this data set."""
        return printed_about(self.stands_for).get(row, {}).get(column)

    def paper(self, ours: Row, theirs: Row, column: str = "Top-1 Loc") -> float | None:
        """The difference of two printed numbers, or None."""
        one, other = self.printed(ours, column), self.printed(theirs, column)
        return None if one is None or other is None else one - other

    def moved(self, name: str, column: str) -> float:
        """The median over images and seeds of a column of `comparison.motion`."""
        return float(np.median(np.concatenate([motion(run)[column] for run in self.runs[name]])))

    def level_5_wins(self, name: str = "cstn") -> np.ndarray:
        """(seeds, n) booleans: whether the winning location under the true class is on level 5."""
        tables = [run.predictions() for run in self.runs[name]]
        return np.stack([array(table, "true_level")[:, 0] == 5 for table in tables])

    def levels_right(self) -> np.ndarray:
        """(seeds, n) whether the own best box of one of CSTN's levels is right."""
        own = [areas.level_hits(run.predictions()) for run in self.runs["cstn"]]
        return np.stack(own).any(axis=2)

    def sizes(self) -> np.ndarray:
        """(n,) see `cstn_lib.reproduction.areas.areas_of`."""
        return areas.areas_of(self.runs["cstn"])

    def by_size(self, values: np.ndarray, groups: int = 2) -> list[Interval]:
        """Smaller, larger and their gap: see `cstn_lib.reproduction.areas.by_half`."""
        found = areas.by_half(self.sizes(), values, groups)
        return [points(interval) for interval in found.values()]


Decide = Callable[[Evidence], Finding]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        text: in one sentence.
        place: where it stands in the paper.
        rule: when it holds, and where there is such a thing, when in part; otherwise it does not.
        condition: under which it is judged here, and which its verdict hangs on.
        experiments: names of `cstn_lib.reproduction.experiments.EXPERIMENTS`, each with every seed.
        datasets: whose places others may take; each is judged by itself.
        decide: applies the rule.
    """

    text: str
    place: str
    rule: str
    condition: str
    experiments: tuple[str, ...]
    datasets: tuple[str, ...]
    decide: Decide


class Verdict(NamedTuple):
    """A claim as judged on one data set: its `Finding`, without numbers where runs are missing."""

    id: str
    claim: Claim
    dataset: str
    measured: tuple[Measured, ...]
    verdict: str
    why: str

    @property
    def condition(self) -> str:
        """The claim's, which tells of its own data sets; blank for one in their place."""
        return self.claim.condition if self.dataset in self.claim.datasets else ""


CLAIMS: dict[str, Claim] = {}
"""By a short name, in the order of the paper: filled by `cstn_lib.reproduction.claims`."""

DATASETS = CUB, IMAGENET = ("birds-cub", "birds-ilsvrc")
"""The data sets that take the places of the paper's two."""


def claim(*fields: object, datasets: tuple[str, ...] = (CUB,)) -> Callable[[Decide], Decide]:
    """Enter the function below in `CLAIMS`, under its name with ``-`` for ``_``.

    Args:
        fields: of `Claim`, from `text` to `experiments`.
    """

    def enter(decide: Decide) -> Decide:
        CLAIMS[decide.__name__.replace("_", "-")] = Claim(*fields, datasets, decide)
        return decide

    return enter


def weigh(measured: Sequence[Measured], why: str) -> Finding:
    """All numbers speak for the claim: holds; some: in part; one against it and none for it: not.

    Where the intervals leave all open, nothing is decided; signs that are open begin the
    explanation.
    """
    says = [m.says for m in measured]
    verdict = first_true(holds=min(says) == 1, in_part=1 in says, refuted=-1 in says)
    return Finding(tuple(measured), verdict, left_open(measured) + why)


def first_true(*, holds: bool, in_part: bool = False, refuted: bool) -> str:
    """The verdict of the first that is true; *undecided* where none is."""
    if holds:
        return HOLDS
    return HOLDS_IN_PART if in_part else HOLDS_NOT if refuted else UNDECIDED


def left_open(measured: Sequence[Measured]) -> str:
    """Which signs the intervals leave open, to be put before an explanation."""
    some = [m.what for m in measured if m.within is None and m.says == 0]
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


def share(right: np.ndarray) -> float:
    """Percent."""
    return 100 * float(np.mean(right))


def interval_text(interval: Interval) -> str:
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*interval)
