"""Every claim of the paper that trained networks can judge, each with the rule that judges it.

A claim stands in the order of the paper: one sentence, its place there, the trainings that it
needs, and a rule in words above the code that applies it. Rules were fixed before looking at the
results and ask intervals, never a bare difference: 95 % intervals over the test images and, where
there are several, the seeds (`cstn_lib.metrics.bootstrap_interval`). Where an interval leaves a
sign open, what claims that sign does not hold; the explanation tells that it is open.

Everything is computed from finished runs' predictions tables (`cstn_lib.predictions`). The paper's
numbers are in `cstn_lib.paper`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cstn_lib import areas
from cstn_lib.comparison import (
    hit_difference,
    judged,
    kinds_of_misses,
    known_boxes,
    motion,
    paired_difference,
    transform_gain,
)
from cstn_lib.errors import InputError, unknown_name
from cstn_lib.experiments import (
    ALPHA_STUDY,
    LAMBDA_STUDY,
    Experiment,
    make_experiment,
    profile_named,
)
from cstn_lib.metrics import Interval, bootstrap_interval, ground_truth
from cstn_lib.paper import (
    FIGURE_6,
    RECALL,
    STANDS_FOR,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_COLUMNS,
)
from cstn_lib.predictions import array
from cstn_lib.report import METHODS, centred_square_loc
from cstn_lib.runs import Run

__all__ = [
    "CLAIMS",
    "HOLDS",
    "HOLDS_IN_PART",
    "HOLDS_NOT",
    "NOT_TESTED",
    "VERDICTS",
    "Claim",
    "Finding",
    "Measured",
    "Verdict",
    "claim_experiments",
    "claims_table",
    "judge",
    "measured_table",
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
        experiments: names of `cstn_lib.experiments.EXPERIMENTS`, each with every seed.
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


def claim_experiments(
    name: str, profile: str, *, dataset: str = "", seeds: int = 0, device: str = "auto"
) -> dict[str, list[Experiment]]:
    """Every training that a claim needs, by data set, seed after seed of each.

    Args:
        name: a key of `CLAIMS`.
        profile: one of `cstn_lib.experiments.PROFILES`.
        dataset: instead of the claim's own; after a comma, in ImageNet's place.
        seeds: how many; 0: as many as the profile has.

    Raises:
        InputError: a name is unknown, or there are more than two data sets.
    """
    if name not in CLAIMS:
        raise unknown_name("claim", name, CLAIMS)
    claim, chosen = CLAIMS[name], dataset.split(",") if dataset else list(DATASETS)
    if len(chosen) > len(DATASETS):
        raise InputError(f"dataset {dataset!r}: expected at most two data sets")
    places = [chosen[min(DATASETS.index(own), len(chosen) - 1)] for own in claim.datasets]
    return {
        data: [
            make_experiment(experiment, data, profile, seed=seed, device=device)
            for experiment in claim.experiments
            for seed in range(seeds or profile_named(profile).seeds)
        ]
        for data in dict.fromkeys(places)
    }


def judge(
    open_run: Callable[[Experiment], Run],
    profile: str,
    *,
    only: Sequence[str] = (),
    dataset: str = "",
    seeds: int = 0,
    device: str = "auto",
) -> list[Verdict]:
    """The verdict on each claim, on each of its data sets.

    Args:
        open_run: such as `cstn_lib.runs.RunStore.open`, which leaves claims of unfinished runs
            *not tested*, or ``RunStore.run``, which trains what is missing.
        only: names of `CLAIMS`; empty: all.
        profile, dataset, seeds, device: see `claim_experiments`.

    Raises:
        InputError: a name is unknown.
    """
    opened: dict[Experiment, Run] = {}
    verdicts = []
    for name in only or CLAIMS:
        options = {"dataset": dataset, "seeds": seeds, "device": device}
        for data, needed in claim_experiments(name, profile, **options).items():
            opened |= {e: open_run(e) for e in needed if e not in opened}
            missing = dict.fromkeys(e.name for e in needed if not opened[e].finished)
            if missing:
                finding = Finding((), NOT_TESTED, f"no finished run of {', '.join(missing)}")
            else:
                runs: dict[str, list[Run]] = {}
                for experiment in needed:
                    runs.setdefault(experiment.name, []).append(opened[experiment])
                finding = CLAIMS[name].decide(runs, STANDS_FOR.get(data, ""))
            verdicts.append(Verdict(name, CLAIMS[name], data, finding))
    return verdicts


def claims_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a claim and data set, as text; numbers in percentage points with 95 % intervals."""
    columns = ["claim", "data set", "place", "rule", "paper", "here", "verdict", "why"]
    rows = [
        (
            verdict.claim.text,
            verdict.dataset,
            verdict.claim.place,
            verdict.claim.rule,
            _listed(verdict, lambda m: "" if m.paper is None else f"{m.paper:+.1f}"),
            _listed(verdict, lambda m: _text(m.here)),
            verdict.verdict,
            verdict.why,
        )
        for verdict in verdicts
    ]
    index = pd.Index([verdict.id for verdict in verdicts], name="id")
    return pd.DataFrame(rows, index=index, columns=columns)


def measured_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a number behind the verdicts: ``here``, ``low``, ``high``, ``paper``, in points."""
    rows = {
        (verdict.claim.text, verdict.dataset, m.what): (
            *(round(end, 2) for end in m.here),
            np.nan if m.paper is None else round(m.paper, 2),
        )
        for verdict in verdicts
        for m in verdict.measured
    }
    index = pd.MultiIndex.from_tuples(rows, names=["claim", "data set", "measured [points]"])
    return pd.DataFrame(list(rows.values()), index=index, columns=["here", "low", "high", "paper"])


def _listed(verdict: Verdict, text: Callable[[Measured], str]) -> str:
    """A text for each number; where there are several, behind its name."""
    several = len(verdict.measured) > 1
    texts = {m.what: text(m) for m in verdict.measured}
    return "; ".join(f"{what}: {said}" if several else said for what, said in texts.items() if said)


def _text(interval: Interval) -> str:
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*interval)


def _claim(
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


# What the rules have in common


def _points(interval: Interval) -> Interval:
    return Interval(*(100 * end for end in interval))


def _gap(ours: Sequence[Run], theirs: Sequence[Run], metric: str) -> Interval:
    """Ours less theirs in points, image by image."""
    return _points(paired_difference(ours, theirs, metric))


def _above_zero(measured: Sequence[Measured]) -> str:
    """All intervals above zero: holds; some: in part; none: not."""
    above = [m.here.low > 0 for m in measured]
    return HOLDS if all(above) else HOLDS_IN_PART if any(above) else HOLDS_NOT


def _within(measured: Sequence[Measured]) -> str:
    """All intervals within the tolerance: holds; all means, or some intervals: in part."""
    inside = [-m.within < m.here.low and m.here.high < m.within for m in measured]
    near = [abs(m.here.mean) < m.within for m in measured]
    return HOLDS if all(inside) else HOLDS_IN_PART if all(near) or any(inside) else HOLDS_NOT


def _open(measured: Sequence[Measured]) -> str:
    """What the intervals leave open, to be put before an explanation."""
    some = [m.what for m in measured if m.here.low <= 0 <= m.here.high]
    if not some:
        return ""
    return "the sign is open; " if len(measured) == 1 else f"open: {', '.join(some)}; "


def _share(right: np.ndarray) -> float:
    """Percent."""
    return 100 * float(np.mean(right))


def _rate(runs: Sequence[Run], metric: str) -> float:
    """Percent of images, over the seeds."""
    return float(np.mean([_share(judged(run)[metric]) for run in runs]))


def _default_loc(runs: Sequence[Run]) -> float:
    """Top-1 Loc in percent of the default boxes at the winning locations."""
    return _share(areas.stacked_hits(runs, "top1_loc", transform=False))


def _levels_won(runs: Sequence[Run]) -> np.ndarray:
    """(seeds, n) the level of each image's winning location under the true class."""
    return np.stack([array(run.predictions(), "true_level")[:, 0] for run in runs])


# Section II


def _local_ahead(runs: Runs, rival: str) -> Finding:
    measured = (
        Measured(f"CSTN less {rival}", _gap(runs["cstn"], runs[METHODS[rival]], "top1_loc")),
    )
    ours, theirs = (_rate(runs[name], "top1_class") for name in ("cstn", METHODS[rival]))
    square = 100 * centred_square_loc(runs["cstn"][0])
    why = (
        f"GT-Known {_rate(runs['cstn'], 'gt_known_loc'):.1f} % against "
        f"{_rate(runs[METHODS[rival]], 'gt_known_loc'):.1f} %, a centred square {square:.1f} %; "
        f"Top-1 Class {ours:.1f} % against {theirs:.1f} %"
    )
    return Finding(measured, _above_zero(measured), _open(measured) + why)


@_claim(
    "ahead-of-stn",
    "Local transforms localize better than one global transform",
    "section II",
    "Top-1 Loc of CSTN less that of the same backbone with a global STN: the whole interval "
    "above 0.",
    DATASETS,
    ("cstn", "stn"),
)
def _ahead_of_stn(runs: Runs, stands_for: str) -> Finding:
    return _local_ahead(runs, "global STN")


@_claim(
    "ahead-of-deformable",
    "CSTN localizes better than a deformable convolution",
    'section II ("cannot be directly utilized for localization")',
    "Top-1 Loc of CSTN less that of the same network with a deformable convolution: the whole "
    "interval above 0.",
    (CUB,),
    ("cstn", "deform"),
)
def _ahead_of_deformable(runs: Runs, stands_for: str) -> Finding:
    return _local_ahead(runs, "deformable convolution")


# Table I


@_claim(
    "transform",
    "The transform improves localization",
    "Table I, section IV-B",
    "Top-1 Loc by the transformed box less that by the default box of the same location: "
    "the whole interval above 0.",
    DATASETS,
    ("cstn",),
)
def _transform(runs: Runs, stands_for: str) -> Finding:
    gain = transform_gain(runs["cstn"], "top1_loc")
    printed = TABLE_1.get(stands_for)
    paper = printed["with transform"] - printed["without transform"] if printed else None
    measured = (Measured("with less without transform", _points(bootstrap_interval(gain)), paper),)
    known = _rate(runs["cstn"], "gt_known_loc")
    square = 100 * centred_square_loc(runs["cstn"][0])
    why = (
        f"it rescues {_share(gain > 0):.1f} % of the images and spoils {_share(gain < 0):.1f} %; "
        f"GT-Known {known:.1f} %, a centred square {square:.1f} %"
    )
    return Finding(measured, _above_zero(measured), _open(measured) + why)


# Table II


def _with_and_without(runs: Runs, stands_for: str, metric: str, column: str) -> Measured:
    ours, theirs = (TABLE_2[row][column] for row in ("With conv STN", "Without conv STN"))
    paper = ours - theirs if stands_for == "CUB-200-2011" else None
    here = _gap(runs["cstn"], runs["plain"], metric)
    return Measured(f"CSTN less plain convolution, {column}", here, paper)


@_claim(
    "cstn-localizes",
    "CSTN localizes better than a plain convolution",
    "Table II, section IV-B",
    "Top-1 Loc of CSTN less that of the same network with a plain convolution: "
    "the whole interval above 0.",
    (CUB,),
    ("plain", "cstn"),
)
def _cstn_localizes(runs: Runs, stands_for: str) -> Finding:
    measured = (_with_and_without(runs, stands_for, "top1_loc", "Top-1 Loc"),)
    plain, fixed = _rate(runs["plain"], "top1_loc"), _default_loc(runs["cstn"])
    why = (
        f"features and location bring {fixed - plain:+.1f} points, moving the window "
        f"{_rate(runs['cstn'], 'top1_loc') - fixed:+.1f}"
    )
    return Finding(measured, _above_zero(measured), _open(measured) + why)


@_claim(
    "cstn-classifies",
    "CSTN classifies better than a plain convolution",
    "Table II, section IV-B",
    "Top-1 Class of CSTN less that of the same network with a plain convolution: "
    "the whole interval above 0.",
    (CUB,),
    ("plain", "cstn"),
)
def _cstn_classifies(runs: Runs, stands_for: str) -> Finding:
    measured = (_with_and_without(runs, stands_for, "top1_class", "Top-1 Class"),)
    left = 100 - _rate(runs["plain"], "top1_class")
    theirs = 100 - TABLE_2["Without conv STN"]["Top-1 Class"]
    why = f"the plain convolution leaves {left:.1f} % wrong; the paper's {theirs:.1f} %"
    return Finding(measured, _above_zero(measured), _open(measured) + why)


# Table III

LAMBDAS = ("cstn", *LAMBDA_STUDY)


@dataclass(frozen=True)
class _Lambdas:
    """The runs of Table III from the smallest to the largest lambda, and the best and worst."""

    runs: dict[float, Sequence[Run]]
    best: float
    worst: float

    @classmethod
    def of(cls, runs: Runs, metric: str) -> _Lambdas:
        by = {group[0].experiment.training.lambda_theta: group for group in runs.values()}
        rates = {weight: _rate(by[weight], metric) for weight in sorted(by)}
        best, worst = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
        return cls({weight: by[weight] for weight in rates}, best, worst)

    @property
    def largest(self) -> float:
        return max(self.runs)

    def gap(self, ours: float, theirs: float, metric: str) -> Interval:
        return _gap(self.runs[ours], self.runs[theirs], metric)


def _printed(column: str, stands_for: str) -> dict[float, float]:
    """Table III's column by lambda; nothing where ours takes the place of another data set."""
    return {w: row[column] for w, row in TABLE_3.items() if stands_for == "CUB-200-2011"}


def _spread(values: Mapping[float, float]) -> float | None:
    return max(values.values()) - min(values.values()) if values else None


def _moved(runs: Sequence[Run], column: str) -> float:
    """The median over images and seeds of a column of `cstn_lib.comparison.motion`."""
    return float(np.median(np.concatenate([motion(run)[column] for run in runs])))


@_claim(
    "lambda-matters",
    "Localization depends strongly on lambda",
    "Table III, section IV-B",
    f"Top-1 Loc at the best lambda less at the worst: at least {MATTERS:g} points, since the best "
    "of several is lucky as well as good, and the whole interval above 0.",
    (CUB,),
    LAMBDAS,
)
def _lambda_matters(runs: Runs, stands_for: str) -> Finding:
    found = _Lambdas.of(runs, "top1_loc")
    here = found.gap(found.best, found.worst, "top1_loc")
    measured = (Measured("best less worst", here, _spread(_printed("Top-1 Loc", stands_for))),)
    holds = here.mean >= MATTERS and here.low > 0
    distances = [_moved(found.runs[at], "distance") for at in (0.0, found.largest)]
    why = (
        f"best at {found.best:g}, worst at {found.worst:g}; the median distance of theta to the "
        f"identity falls from {distances[0]:.2f} at 0 to {distances[1]:.2f} at {found.largest:g}"
    )
    return Finding(measured, HOLDS if holds else HOLDS_NOT, why)


@_claim(
    "lambda-inside",
    "The best lambda lies inside the range",
    "Table III",
    "The best Top-1 Loc lies at neither end, and less that at either end the whole interval is "
    "above 0; in part: above 0 for one end.",
    (CUB,),
    LAMBDAS,
)
def _lambda_inside(runs: Runs, stands_for: str) -> Finding:
    found = _Lambdas.of(runs, "top1_loc")
    printed = _printed("Top-1 Loc", stands_for)
    ends = {"0": (0.0, 0.0), "the largest": (found.largest, max(TABLE_3))}
    measured = tuple(
        Measured(
            f"best less {name}",
            found.gap(found.best, end, "top1_loc"),
            max(printed.values()) - printed[theirs] if printed else None,
        )
        for name, (end, theirs) in ends.items()
    )
    at_end = found.best in (0.0, found.largest)
    factor = _moved(found.runs[found.best], "area factor")
    why = f"best at {found.best:g}, where the median window grows to {factor:.2f} times its area"
    return Finding(measured, HOLDS_NOT if at_end else _above_zero(measured), why)


@_claim(
    "lambda-zero",
    "Localization collapses without lambda",
    "Table III and its caption, Figure 7",
    "Top-1 Loc at the largest lambda less at 0: the whole interval above 0.",
    (CUB,),
    LAMBDAS,
)
def _lambda_zero(runs: Runs, stands_for: str) -> Finding:
    found, printed = _Lambdas.of(runs, "top1_loc"), _printed("Top-1 Loc", stands_for)
    here = found.gap(found.largest, 0.0, "top1_loc")
    paper = printed[max(printed)] - printed[0.0] if printed else None
    measured = (Measured("largest lambda less 0", here, paper),)
    free = found.runs[0.0]
    truth = ground_truth(free[0].predictions())
    kinds = np.concatenate([kinds_of_misses(known_boxes(run), truth) for run in free])
    why = (
        f"at 0 the median window has {_moved(free, 'area factor'):.2f} times the area of its "
        f"default box; {_share(kinds == 'too small'):.0f} % of the boxes are too small, "
        f"{_share(kinds == 'too large'):.0f} % too large"
    )
    return Finding(measured, _above_zero(measured), _open(measured) + why)


@_claim(
    "lambda-large",
    "At a large lambda localization tends to that without transform",
    "caption of Table III",
    "At the largest lambda, Top-1 Loc by the transformed box less that by the default box: the "
    f"whole interval within {MATTERS:g} points of 0; in part: its mean.",
    (CUB,),
    LAMBDAS,
)
def _lambda_large(runs: Runs, stands_for: str) -> Finding:
    found = _Lambdas.of(runs, "top1_loc")
    group = found.runs[found.largest]
    here = _points(bootstrap_interval(transform_gain(group, "top1_loc")))
    measured = (Measured("with less without transform", here, within=MATTERS),)
    why = (
        f"at {found.largest:g} theta still lies {_moved(group, 'distance'):.2f} from the identity "
        f"(median), and windows have {_moved(group, 'area factor'):.2f} times their area"
    )
    return Finding(measured, _within(measured), why)


@_claim(
    "lambda-class",
    "Classification is barely affected by lambda",
    "Table III, section IV-B",
    f"Top-1 Class at the best lambda less at the worst: the whole interval below {BARELY:g} "
    "points; in part: its mean.",
    (CUB,),
    LAMBDAS,
)
def _lambda_class(runs: Runs, stands_for: str) -> Finding:
    found = _Lambdas.of(runs, "top1_class")
    here = found.gap(found.best, found.worst, "top1_class")
    paper = _spread(_printed("Top-1 Class", stands_for))
    measured = (Measured("best less worst", here, paper, within=BARELY),)
    best, worst = (_rate(found.runs[at], "top1_class") for at in (found.best, found.worst))
    why = f"Top-1 Class lies between {worst:.1f} % and {best:.1f} %"
    return Finding(measured, _within(measured), why)


# Figure 6

LEVELS = ("cstn-level-4", "cstn-level-5", "cstn")


@_claim(
    "levels-specialise",
    "Each level specialises in its sizes",
    "Figure 6(a), (b)",
    "The median area halves the images. GT-Known Loc of level 4 alone less that of level 5 alone "
    "on the smaller half, and the reverse on the larger: both whole intervals above 0; in part: "
    "level 5's lead grows from the smaller half to the larger, the interval above 0.",
    (CUB,),
    LEVELS,
)
def _levels_specialise(runs: Runs, stands_for: str) -> Finding:
    fine, coarse = (areas.stacked_hits(runs[name], "gt_known_loc") for name in LEVELS[:2])
    sizes = areas.areas_of([*runs["cstn-level-4"], *runs["cstn-level-5"]])
    halves = {name: _points(found) for name, found in areas.by_half(sizes, coarse - fine).items()}
    small = halves["smaller"]
    measured = (
        Measured("smaller half: level 4 less 5", Interval(-small.mean, -small.high, -small.low)),
        Measured("larger half: level 5 less 4", halves["larger"]),
    )
    grows = halves["larger less smaller"].low > 0
    crosses = _above_zero(measured) == HOLDS
    won = areas.by_half(sizes, (_levels_won(runs["cstn"]) == 5).astype(int))
    why = (
        f"where both vote, level 5 wins {100 * won['smaller'].mean:.0f} % of the smaller and "
        f"{100 * won['larger'].mean:.0f} % of the larger objects"
    )
    return Finding(measured, HOLDS if crosses else HOLDS_IN_PART if grows else HOLDS_NOT, why)


@_claim(
    "both-levels",
    "Both levels together beat each alone",
    "Figure 6(c)",
    "Top-1 Loc of both less that of each level alone: both whole intervals above 0; in part: one.",
    (CUB,),
    LEVELS,
)
def _both_levels(runs: Runs, stands_for: str) -> Finding:
    cub = stands_for == "CUB-200-2011"
    measured = tuple(
        Measured(
            f"both less {panel}",
            _gap(runs["cstn"], runs[name], "top1_loc"),
            FIGURE_6["levels 4 and 5"] - FIGURE_6[panel] if cub else None,
        )
        for name, panel in zip(LEVELS[:2], ("level 4", "level 5"), strict=True)
    )
    own = np.stack([areas.level_hits(run.predictions()) for run in runs["cstn"]])
    why = (
        f"the winner is right on {_rate(runs['cstn'], 'gt_known_loc'):.1f} %; an oracle that "
        f"chooses the level alone would be on {_share(own.any(axis=2)):.1f} %"
    )
    return Finding(measured, _above_zero(measured), _open(measured) + why)


@_claim(
    "transform-stronger",
    "The transform adds more with both levels",
    "Figure 6, section IV-B",
    "What the transform adds to Top-1 Loc with both levels less what it adds to each alone: both "
    "whole intervals above 0; in part: one.",
    (CUB,),
    LEVELS,
)
def _transform_stronger(runs: Runs, stands_for: str) -> Finding:
    gain = {name: transform_gain(runs[name], "top1_loc") for name in LEVELS}
    measured = tuple(
        Measured(
            f"gain of both less of {panel}",
            _points(bootstrap_interval(gain["cstn"] - gain[name])),
        )
        for name, panel in zip(LEVELS[:2], ("level 4", "level 5"), strict=True)
    )
    gains = ", ".join(f"{100 * gain[name].mean():+.1f}" for name in LEVELS)
    why = f"gains of level 4, level 5 and both: {gains} points"
    return Finding(measured, _above_zero(measured), _open(measured) + why)


# Section IV-B


@_claim(
    "alpha",
    "Alpha can vary widely without much effect on localization",
    "sections IV-B and IV-C",
    "At each other positive alpha of the study, Top-1 Loc less that of CSTN: all whole intervals "
    f"within {MATTERS:g} points of 0; in part: all means, or some intervals.",
    (CUB,),
    ("cstn", *ALPHA_STUDY),
)
def _alpha(runs: Runs, stands_for: str) -> Finding:
    measured = tuple(
        Measured(f"alpha {alpha:g}", _gap(runs[name], runs["cstn"], "top1_loc"), within=MATTERS)
        for name, alpha in ALPHA_STUDY.items()
        if alpha
    )
    by = {group[0].experiment.training.alpha_scale: group for group in runs.values()}
    won = ", ".join(f"{_share(_levels_won(by[a]) == 5):.0f} % at {a:g}" for a in sorted(by))
    off = _text(_gap(by[0.0], runs["cstn"], "top1_loc"))
    why = f"without the term (alpha 0) {off} points; level 5 wins {won}"
    return Finding(measured, _within(measured), why)


# Tables IV and V

MAPS = ("CAM", "HaS", "ACoL", "SPG", "ADL")


def _published(stands_for: str, method: str, column: str) -> float | None:
    """A cell of Table IV or V."""
    table = {"CUB-200-2011": TABLE_4, "ImageNet": TABLE_5}.get(stands_for)
    return table[method][TABLE_COLUMNS.index(column)] if table else None


def _ahead(runs: Runs, stands_for: str, ours: str, theirs: str) -> Measured:
    """Top-1 Loc of one method less another's."""
    here = _gap(runs[METHODS[ours]], runs[METHODS[theirs]], "top1_loc")
    printed = [_published(stands_for, name, "Top-1 Loc") for name in (ours, theirs)]
    paper = None if None in printed else printed[0] - printed[1]
    return Measured(f"{ours} less {theirs}", here, paper)


def _top5_ahead(runs: Runs, stands_for: str, rival: str, within: float | None = None) -> Measured:
    """CSTN's Top-5 box less a rival's GT-Known Loc: a score map has one box, its "top five"."""
    here = _gap(runs["cstn"], runs[METHODS[rival]], "top5_box_loc")
    ours = _published(stands_for, "CSTN Top-5 box", "GT-Known Loc")
    theirs = _published(stands_for, rival, "GT-Known Loc")
    paper = None if ours is None or theirs is None else ours - theirs
    return Measured(f"CSTN Top-5 box less {rival}", here, paper, within)


def _missed(run: Run) -> str:
    """What CSTN's wrong boxes look like, in words."""
    kinds = pd.Series(kinds_of_misses(known_boxes(run), ground_truth(run.predictions())))
    shares = kinds[kinds != "right"].value_counts(normalize=True)
    return ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in shares.items()) or "none"


@_claim(
    "ahead-of-cams",
    "CSTN localizes better than CAM, HaS, ACoL and SPG",
    "Table IV, section IV-C",
    "Top-1 Loc of CSTN less that of each: all whole intervals above 0; in part: some.",
    (CUB,),
    ("cstn", "cam", "has", "acol", "spg"),
)
def _ahead_of_cams(runs: Runs, stands_for: str) -> Finding:
    measured = tuple(_ahead(runs, stands_for, "CSTN", rival) for rival in MAPS[:4])
    why = f"of CSTN's misses: {_missed(runs['cstn'][0])} (seed 0)"
    return Finding(measured, _above_zero(measured), _open(measured) + why)


@_claim(
    "behind-adl",
    "ADL localizes better than CSTN",
    "Table IV, section IV-C",
    "Top-1 Loc of ADL less that of CSTN: the whole interval above 0.",
    (CUB,),
    ("cstn", "adl"),
)
def _behind_adl(runs: Runs, stands_for: str) -> Finding:
    measured = (_ahead(runs, stands_for, "ADL", "CSTN"),)
    asked = (
        (runs["cstn"], "any_box"),
        (runs["adl"], "gt_known_loc"),
        (runs["cstn"], "gt_known_loc"),
    )
    recall, adl, winner = (_rate(*question) for question in asked)
    why = (
        f"CSTN's winner is right on {winner:.1f} %, ADL's box on {adl:.1f} %, some box of CSTN's "
        f"on {recall:.1f} %: {recall - winner:.1f} points are lost by selection"
    )
    return Finding(measured, _above_zero(measured), _open(measured) + why)


@_claim(
    "top5-ahead-of-adl",
    "One of CSTN's five best boxes is right more often than ADL's box",
    "Table IV, section IV-C",
    "GT-Known Loc of CSTN's Top-5 box less that of ADL: the whole interval above 0.",
    (CUB,),
    ("cstn", "adl"),
)
def _top5_ahead_of_adl(runs: Runs, stands_for: str) -> Finding:
    measured = (_top5_ahead(runs, stands_for, "ADL"),)
    one, five = (_rate(runs["cstn"], metric) for metric in ("gt_known_loc", "top5_box_loc"))
    why = f"five tries bring CSTN from {one:.1f} % to {five:.1f} %; ADL has one"
    return Finding(measured, _above_zero(measured), _open(measured) + why)


@_claim(
    "recall",
    "Some box of the image is almost always right",
    "section IV-C (recall close to 99 %)",
    f"The share of images where any box is right: the whole interval above {RECALL - BARELY:g} %; "
    "in part: its mean.",
    (CUB,),
    ("cstn", "plain"),
)
def _recall(runs: Runs, stands_for: str) -> Finding:
    floor = RECALL - BARELY
    found = _points(bootstrap_interval(areas.stacked_hits(runs["cstn"], "any_box")))
    here = Interval(*(end - floor for end in found))
    paper = RECALL - floor if stands_for == "CUB-200-2011" else None
    measured = (Measured(f"any box less {floor:g} %", here, paper),)
    verdict = HOLDS if here.low > 0 else HOLDS_IN_PART if here.mean > 0 else HOLDS_NOT
    why = (
        f"any box {found.mean:.1f} %; of a plain convolution's default boxes some is right on "
        f"{_rate(runs['plain'], 'any_box'):.1f} % for free"
    )
    return Finding(measured, verdict, why)


@_claim(
    "behind-cams",
    "Where sizes are spread, CSTN falls behind the CAM family",
    "Table V, section IV-C",
    "Top-1 Loc of each of CAM, HaS, ACoL, SPG and ADL less that of CSTN: all whole intervals "
    "above 0; in part: some.",
    (IMAGENET,),
    ("cstn", "cam", "has", "acol", "spg", "adl"),
)
def _behind_cams(runs: Runs, stands_for: str) -> Finding:
    measured = tuple(_ahead(runs, stands_for, rival, "CSTN") for rival in MAPS)
    known = ", ".join(
        f"{100 * paired_difference(runs[METHODS[rival]], runs['cstn'], 'gt_known_loc').mean:+.1f}"
        for rival in MAPS
    )
    why = f"by GT-Known {known} points; of CSTN's misses: {_missed(runs['cstn'][0])} (seed 0)"
    return Finding(measured, _above_zero(measured), _open(measured) + why)


@_claim(
    "top5-comparable",
    "Its Top-5 box is comparable to SPG and ADL there",
    "Table V, section IV-C",
    "GT-Known Loc of CSTN's Top-5 box less that of SPG, and of ADL: both whole intervals within "
    f"{MATTERS:g} points of 0; in part: both means, or one interval.",
    (IMAGENET,),
    ("cstn", "spg", "adl"),
)
def _top5_comparable(runs: Runs, stands_for: str) -> Finding:
    measured = tuple(_top5_ahead(runs, stands_for, rival, MATTERS) for rival in ("SPG", "ADL"))
    recall, five = (_rate(runs["cstn"], metric) for metric in ("any_box", "top5_box_loc"))
    why = f"one of the five best is right on {five:.1f} % of the images, some box on {recall:.1f} %"
    return Finding(measured, _within(measured), why)


@_claim(
    "cam-less-sensitive",
    "CAM is less sensitive to scale than CSTN",
    "caption of Table V",
    "CSTN less CAM, GT-Known Loc, on the fifth of the images with the largest objects and on that "
    "with the smallest: the first interval lies above the second; in part: the interval of their "
    "difference lies above 0.",
    (IMAGENET,),
    ("cstn", "cam"),
)
def _cam_less_sensitive(runs: Runs, stands_for: str) -> Finding:
    lead = hit_difference(runs["cstn"], runs["cam"], "gt_known_loc")
    found = areas.by_half(areas.areas_of(runs["cstn"]), lead, groups=5)
    small, large, gap = (_points(interval) for interval in found.values())
    measured = (Measured("CSTN less CAM: largest less smallest fifth", gap),)
    verdict = HOLDS if large.low > small.high else HOLDS_IN_PART if gap.low > 0 else HOLDS_NOT
    why = f"CSTN less CAM: {_text(small)} on the smallest fifth, {_text(large)} on the largest"
    return Finding(measured, verdict, why)


# Figure 8


def _lowest_bins(runs: Sequence[Run]) -> np.ndarray:
    """(n,) which test images are in the two lowest of Figure 8's ten bins."""
    sizes = areas.areas_of(runs)
    return sizes <= max(areas.counts_by_area(runs).edges[2], sizes.min())


@_claim(
    "small-missed",
    "Most small objects are missed",
    "Figure 8, caption of Table V, section IV-C",
    "GT-Known Loc below one half on the two lowest of the ten bins of area, and on the fifth of "
    "the images with the smallest objects: both whole intervals; in part: one.",
    (IMAGENET,),
    ("cstn",),
)
def _small_missed(runs: Runs, stands_for: str) -> Finding:
    known = areas.stacked_hits(runs["cstn"], "gt_known_loc")
    sizes = areas.areas_of(runs["cstn"])
    fifth = np.argsort(sizes, kind="stable")[: max(1, len(sizes) // 5)]
    groups = {"two lowest bins": _lowest_bins(runs["cstn"]), "smallest fifth": fifth}
    measured = tuple(
        Measured(f"one half less {name}", _points(bootstrap_interval(0.5 - known[:, some])))
        for name, some in groups.items()
    )
    anywhere = areas.stacked_hits(runs["cstn"], "any_box")
    why = "; ".join(
        f"{name}: {_share(known[:, some]):.0f} % localized, "
        f"any box {_share(anywhere[:, some]):.0f} %"
        for name, some in groups.items()
    )
    return Finding(measured, _above_zero(measured), why)


@_claim(
    "large-favoured",
    "Large objects are favoured",
    "Figure 8, section IV-C",
    "GT-Known Loc on the half of the images with the larger objects less that on the other: the "
    "whole interval above 0; and the interval on the largest fifth lies above that on the "
    "smallest; in part: one of the two.",
    (IMAGENET,),
    ("cstn",),
)
def _large_favoured(runs: Runs, stands_for: str) -> Finding:
    known = areas.stacked_hits(runs["cstn"], "gt_known_loc")
    sizes = areas.areas_of(runs["cstn"])
    halves, fifths = (areas.by_half(sizes, known, groups=groups) for groups in (2, 5))
    measured = (
        Measured("larger half less smaller", _points(halves["larger less smaller"])),
        Measured("largest fifth less smallest", _points(fifths["larger less smaller"])),
    )
    sure = (halves["larger less smaller"].low > 0) + (fifths["larger"].low > fifths["smaller"].high)
    coarse = areas.by_half(sizes, (_levels_won(runs["cstn"]) == 5).astype(int), groups=5)
    why = (
        f"largest fifth {100 * fifths['larger'].mean:.0f} % localized, smallest "
        f"{100 * fifths['smaller'].mean:.0f} %; level 5 wins {100 * coarse['larger'].mean:.0f} % "
        f"and {100 * coarse['smaller'].mean:.0f} % of them"
    )
    return Finding(measured, (HOLDS_NOT, HOLDS_IN_PART, HOLDS)[sure], why)
