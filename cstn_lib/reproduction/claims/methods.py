"""Claims about CSTN among the other methods: Tables IV and V, section IV-C."""

from __future__ import annotations

import pandas as pd

from cstn_lib.evaluation.metrics import Interval, ground_truth, mean_interval
from cstn_lib.reproduction import areas
from cstn_lib.reproduction.claims.claim import (
    BARELY,
    CUB,
    HOLDS,
    HOLDS_IN_PART,
    HOLDS_NOT,
    IMAGENET,
    MATTERS,
    Finding,
    Measured,
    Runs,
    claim,
)
from cstn_lib.reproduction.claims.measures import (
    above_zero,
    gap,
    interval_text,
    left_open,
    points,
    rate,
    within,
)
from cstn_lib.reproduction.comparison import (
    gt_known_boxes,
    hit_difference,
    kinds_of_misses,
    paired_difference,
)
from cstn_lib.reproduction.paper import RECALL, TABLE_4, TABLE_5, TABLE_COLUMNS
from cstn_lib.reproduction.runs import Run
from cstn_lib.reproduction.tables import METHODS

# Tables IV and V

MAPS = ("CAM", "HaS", "ACoL", "SPG", "ADL")


def _published(stands_for: str, method: str, column: str) -> float | None:
    """A cell of Table IV or V."""
    table = {"CUB-200-2011": TABLE_4, "ImageNet": TABLE_5}.get(stands_for)
    return table[method][TABLE_COLUMNS.index(column)] if table else None


def _ahead(runs: Runs, stands_for: str, ours: str, theirs: str) -> Measured:
    """Top-1 Loc of one method less another's."""
    here = gap(runs[METHODS[ours]], runs[METHODS[theirs]], "top1_loc")
    printed = [_published(stands_for, name, "Top-1 Loc") for name in (ours, theirs)]
    paper = None if None in printed else printed[0] - printed[1]
    return Measured(f"{ours} less {theirs}", here, paper)


def _top5_ahead(runs: Runs, stands_for: str, rival: str, within: float | None = None) -> Measured:
    """CSTN's Top-5 box less a rival's GT-Known Loc: a score map has one box, its "top five"."""
    here = gap(runs["cstn"], runs[METHODS[rival]], "top5_box_loc")
    ours = _published(stands_for, "CSTN Top-5 box", "GT-Known Loc")
    theirs = _published(stands_for, rival, "GT-Known Loc")
    paper = None if ours is None or theirs is None else ours - theirs
    return Measured(f"CSTN Top-5 box less {rival}", here, paper, within)


def _missed(run: Run) -> str:
    """What CSTN's wrong boxes look like, in words."""
    kinds = pd.Series(kinds_of_misses(gt_known_boxes(run), ground_truth(run.predictions())))
    shares = kinds[kinds != "right"].value_counts(normalize=True)
    return ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in shares.items()) or "none"


@claim(
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
    return Finding(measured, above_zero(measured), left_open(measured) + why)


@claim(
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
    recall, adl, winner = (rate(*question) for question in asked)
    why = (
        f"CSTN's winner is right on {winner:.1f} %, ADL's box on {adl:.1f} %, some box of CSTN's "
        f"on {recall:.1f} %: {recall - winner:.1f} points are lost by selection"
    )
    return Finding(measured, above_zero(measured), left_open(measured) + why)


@claim(
    "top5-ahead-of-adl",
    "One of CSTN's five best boxes is right more often than ADL's box",
    "Table IV, section IV-C",
    "GT-Known Loc of CSTN's Top-5 box less that of ADL: the whole interval above 0.",
    (CUB,),
    ("cstn", "adl"),
)
def _top5_ahead_of_adl(runs: Runs, stands_for: str) -> Finding:
    measured = (_top5_ahead(runs, stands_for, "ADL"),)
    one, five = (rate(runs["cstn"], metric) for metric in ("gt_known_loc", "top5_box_loc"))
    why = f"five tries bring CSTN from {one:.1f} % to {five:.1f} %; ADL has one"
    return Finding(measured, above_zero(measured), left_open(measured) + why)


@claim(
    "recall",
    "Some box of the image is almost always right",
    f"section IV-C (recall close to {RECALL:g} %)",
    f"The share of images where any box is right: the whole interval above {RECALL - BARELY:g} %; "
    "in part: its mean.",
    (CUB,),
    ("cstn", "plain"),
)
def _recall(runs: Runs, stands_for: str) -> Finding:
    floor = RECALL - BARELY
    found = points(mean_interval(areas.stacked_hits(runs["cstn"], "any_box") == 1))
    here = Interval(*(end - floor for end in found))
    paper = RECALL - floor if stands_for == "CUB-200-2011" else None
    measured = (Measured(f"any box less {floor:g} %", here, paper),)
    verdict = HOLDS if here.low > 0 else HOLDS_IN_PART if here.mean > 0 else HOLDS_NOT
    why = (
        f"any box {found.mean:.1f} %; of a plain convolution's default boxes some is right on "
        f"{rate(runs['plain'], 'any_box'):.1f} % for free"
    )
    return Finding(measured, verdict, why)


@claim(
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
    return Finding(measured, above_zero(measured), left_open(measured) + why)


@claim(
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
    recall, five = (rate(runs["cstn"], metric) for metric in ("any_box", "top5_box_loc"))
    why = f"one of the five best is right on {five:.1f} % of the images, some box on {recall:.1f} %"
    return Finding(measured, within(measured), why)


@claim(
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
    small, large, change = (points(interval) for interval in found.values())
    measured = (Measured("CSTN less CAM: largest less smallest fifth", change),)
    verdict = HOLDS if large.low > small.high else HOLDS_IN_PART if change.low > 0 else HOLDS_NOT
    why = (
        f"CSTN less CAM: {interval_text(small)} on the smallest fifth, {interval_text(large)} on "
        "the largest"
    )
    return Finding(measured, verdict, left_open(measured) + why)
