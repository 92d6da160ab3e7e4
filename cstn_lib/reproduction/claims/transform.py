"""Claims about the transform itself: section II, Tables I and II."""

from __future__ import annotations

from cstn_lib.evaluation.metrics import mean_interval
from cstn_lib.reproduction.claims.claim import CUB, DATASETS, Finding, Measured, Runs, claim
from cstn_lib.reproduction.claims.measures import (
    above_zero,
    default_loc,
    gap,
    left_open,
    points,
    rate,
    share,
)
from cstn_lib.reproduction.comparison import transform_gain
from cstn_lib.reproduction.paper import TABLE_1, TABLE_2
from cstn_lib.reproduction.tables import METHODS, centred_square_loc

# Section II


def _local_ahead(runs: Runs, rival: str) -> Finding:
    measured = (
        Measured(f"CSTN less {rival}", gap(runs["cstn"], runs[METHODS[rival]], "top1_loc")),
    )
    ours, theirs = (rate(runs[name], "top1_class") for name in ("cstn", METHODS[rival]))
    square = 100 * centred_square_loc(runs["cstn"][0])
    why = (
        f"GT-Known {rate(runs['cstn'], 'gt_known_loc'):.1f} % against "
        f"{rate(runs[METHODS[rival]], 'gt_known_loc'):.1f} %, a centred square {square:.1f} %; "
        f"Top-1 Class {ours:.1f} % against {theirs:.1f} %"
    )
    return Finding(measured, above_zero(measured), left_open(measured) + why)


@claim(
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


@claim(
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


@claim(
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
    measured = (Measured("with less without transform", points(mean_interval(gain)), paper),)
    known = rate(runs["cstn"], "gt_known_loc")
    square = 100 * centred_square_loc(runs["cstn"][0])
    why = (
        f"it rescues {share(gain > 0):.1f} % of the images and spoils {share(gain < 0):.1f} %; "
        f"GT-Known {known:.1f} %, a centred square {square:.1f} %"
    )
    return Finding(measured, above_zero(measured), left_open(measured) + why)


# Table II


def _with_and_without(runs: Runs, stands_for: str, metric: str, column: str) -> Measured:
    ours, theirs = (TABLE_2[row][column] for row in ("With conv STN", "Without conv STN"))
    paper = ours - theirs if stands_for == "CUB-200-2011" else None
    here = gap(runs["cstn"], runs["plain"], metric)
    return Measured(f"CSTN less plain convolution, {column}", here, paper)


@claim(
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
    plain, fixed = rate(runs["plain"], "top1_loc"), default_loc(runs["cstn"])
    why = (
        f"features and location bring {fixed - plain:+.1f} points, moving the window "
        f"{rate(runs['cstn'], 'top1_loc') - fixed:+.1f}"
    )
    return Finding(measured, above_zero(measured), left_open(measured) + why)


@claim(
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
    left = 100 - rate(runs["plain"], "top1_class")
    theirs = 100 - TABLE_2["Without conv STN"]["Top-1 Class"]
    why = f"the plain convolution leaves {left:.1f} % wrong; the paper's {theirs:.1f} %"
    return Finding(measured, above_zero(measured), left_open(measured) + why)
