"""What a claim of the paper is, what a rule finds of it, and the list of all: `CLAIMS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cstn_lib.evaluation.metrics import Interval
from cstn_lib.reproduction.runs import Run

__all__ = [
    "BARELY",
    "CLAIMS",
    "CUB",
    "DATASETS",
    "HOLDS",
    "HOLDS_IN_PART",
    "HOLDS_NOT",
    "IMAGENET",
    "MATTERS",
    "NOT_TESTED",
    "VERDICTS",
    "Claim",
    "Finding",
    "Measured",
    "Rule",
    "Runs",
    "Verdict",
    "claim",
]

HOLDS, HOLDS_IN_PART = "holds", "holds in part"
HOLDS_NOT, NOT_TESTED = "does not hold", "not tested"
VERDICTS = (HOLDS, HOLDS_IN_PART, HOLDS_NOT, NOT_TESTED)

MATTERS = 5.0
"""Points of localization from which on a hyper-parameter or a gap matters."""

BARELY = 2.0
"""Points within which two shares of the images are nearly the same."""


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


@dataclass(frozen=True)
class Finding:
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
        datasets: of `DATASETS`; each is judged by itself.
        experiments: names of `cstn_lib.reproduction.experiments.EXPERIMENTS`, each with every seed.
        decide: applies the rule to the runs of one data set by experiment, and to the name of the
            paper's data set whose place that takes.
    """

    text: str
    place: str
    rule: str
    datasets: tuple[str, ...]
    experiments: tuple[str, ...]
    decide: Rule


@dataclass(frozen=True)
class Verdict:
    """A claim as judged on one data set; without numbers where runs are missing."""

    id: str
    claim: Claim
    dataset: str
    finding: Finding

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        return self.finding.verdict

    @property
    def why(self) -> str:
        return self.finding.why

    @property
    def measured(self) -> tuple[Measured, ...]:
        return self.finding.measured


DATASETS = CUB, IMAGENET = ("birds-cub", "birds-ilsvrc")
"""The data sets that take the places of the paper's two."""

CLAIMS: dict[str, Claim] = {}
"""By a short name, in the order of the paper."""


def claim(
    name: str,
    text: str,
    place: str,
    rule: str,
    datasets: tuple[str, ...],
    experiments: tuple[str, ...],
) -> Callable[[Rule], Rule]:
    """Enter the function below under `CLAIMS`."""

    def enter(decide: Rule) -> Rule:
        CLAIMS[name] = Claim(text, place, rule, datasets, experiments, decide)
        return decide

    return enter
