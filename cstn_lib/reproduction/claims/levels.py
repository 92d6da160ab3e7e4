"""Claims about the levels of the pyramid: Figure 6."""

from __future__ import annotations

import numpy as np

from cstn_lib.evaluation.metrics import Interval, mean_interval
from cstn_lib.reproduction import areas
from cstn_lib.reproduction.claims.claim import (
    CUB,
    HOLDS,
    HOLDS_IN_PART,
    HOLDS_NOT,
    Finding,
    Measured,
    Runs,
    claim,
)
from cstn_lib.reproduction.claims.measures import (
    above_zero,
    gap,
    left_open,
    levels_won,
    points,
    rate,
    share,
)
from cstn_lib.reproduction.comparison import transform_gain
from cstn_lib.reproduction.paper import FIGURE_6

# Figure 6

LEVELS = ("cstn-level-4", "cstn-level-5", "cstn")


@claim(
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
    halves = {name: points(found) for name, found in areas.by_half(sizes, coarse - fine).items()}
    small = halves["smaller"]
    measured = (
        Measured("smaller half: level 4 less 5", Interval(-small.mean, -small.high, -small.low)),
        Measured("larger half: level 5 less 4", halves["larger"]),
    )
    grows = halves["larger less smaller"].low > 0
    crosses = above_zero(measured) == HOLDS
    won = areas.by_half(sizes, levels_won(runs["cstn"]) == 5)
    why = (
        f"where both vote, level 5 wins {100 * won['smaller'].mean:.0f} % of the smaller and "
        f"{100 * won['larger'].mean:.0f} % of the larger objects"
    )
    return Finding(measured, HOLDS if crosses else HOLDS_IN_PART if grows else HOLDS_NOT, why)


@claim(
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
            gap(runs["cstn"], runs[name], "top1_loc"),
            FIGURE_6["levels 4 and 5"] - FIGURE_6[panel] if cub else None,
        )
        for name, panel in zip(LEVELS[:2], ("level 4", "level 5"), strict=True)
    )
    own = np.stack([areas.level_hits(run.predictions()) for run in runs["cstn"]])
    why = (
        f"the winner is right on {rate(runs['cstn'], 'gt_known_loc'):.1f} %; an oracle that "
        f"chooses the level alone would be on {share(own.any(axis=2)):.1f} %"
    )
    return Finding(measured, above_zero(measured), left_open(measured) + why)


@claim(
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
            points(mean_interval(gain["cstn"] - gain[name], most=2)),
        )
        for name, panel in zip(LEVELS[:2], ("level 4", "level 5"), strict=True)
    )
    gains = ", ".join(f"{100 * gain[name].mean():+.1f}" for name in LEVELS)
    why = f"gains of level 4, level 5 and both: {gains} points"
    return Finding(measured, above_zero(measured), left_open(measured) + why)
