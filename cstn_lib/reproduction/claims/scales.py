"""Claims about objects of every size: Figures 8 and 9."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cstn_lib.evaluation.metrics import Interval, mean_interval
from cstn_lib.reproduction import areas
from cstn_lib.reproduction.claims.claim import (
    HOLDS,
    HOLDS_IN_PART,
    HOLDS_NOT,
    IMAGENET,
    Finding,
    Measured,
    Runs,
    claim,
)
from cstn_lib.reproduction.claims.measures import above_zero, levels_won, points, share
from cstn_lib.reproduction.runs import Run

# Figure 8


def _lowest_bins(runs: Sequence[Run]) -> np.ndarray:
    """(n,) which test images are in the two lowest of Figure 8's ten bins."""
    sizes = areas.areas_of(runs)
    return sizes <= max(areas.counts_by_area(runs).edges[2], sizes.min())


@claim(
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
    found = {name: mean_interval(known[:, some] == 1) for name, some in groups.items()}
    measured = tuple(
        Measured(f"one half less {name}", points(Interval(*(0.5 - end for end in (m, high, low)))))
        for name, (m, low, high) in found.items()
    )
    anywhere = areas.stacked_hits(runs["cstn"], "any_box")
    why = "; ".join(
        f"{name}: {share(known[:, some]):.0f} % localized, any box {share(anywhere[:, some]):.0f} %"
        for name, some in groups.items()
    )
    return Finding(measured, above_zero(measured), why)


@claim(
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
    halves, fifths = (areas.by_half(sizes, known == 1, groups=groups) for groups in (2, 5))
    measured = (
        Measured("larger half less smaller", points(halves["larger less smaller"])),
        Measured("largest fifth less smallest", points(fifths["larger less smaller"])),
    )
    sure = (halves["larger less smaller"].low > 0) + (fifths["larger"].low > fifths["smaller"].high)
    coarse = areas.by_half(sizes, levels_won(runs["cstn"]) == 5, groups=5)
    why = (
        f"largest fifth {100 * fifths['larger'].mean:.0f} % localized, smallest "
        f"{100 * fifths['smaller'].mean:.0f} %; level 5 wins {100 * coarse['larger'].mean:.0f} % "
        f"and {100 * coarse['smaller'].mean:.0f} % of them"
    )
    return Finding(measured, (HOLDS_NOT, HOLDS_IN_PART, HOLDS)[sure], why)


# Figure 9


@claim(
    "wrong-level",
    "Large objects are missed because the wrong level wins",
    "Figure 9, section IV-C",
    "Of the missed images (GT-Known Loc) with the larger half of the objects, the share where "
    "another level's own best box is right, less one half: the whole interval above 0.",
    (IMAGENET,),
    ("cstn",),
)
def _wrong_level(runs: Runs, stands_for: str) -> Finding:
    sizes = areas.areas_of(runs["cstn"])
    large = np.argsort(sizes, kind="stable")[len(sizes) // 2 :]
    missed = (areas.stacked_hits(runs["cstn"], "gt_known_loc") == 0)[:, large]
    own = np.stack([areas.level_hits(run.predictions()) for run in runs["cstn"]])
    saved = own.any(axis=2)[:, large]
    # a mean over all images of the half that is the share among its missed ones, less one half
    excess = missed * (saved - 0.5) / max(missed.mean(), 1e-9)
    measured = (Measured("share less one half", points(mean_interval(excess, most=0.5))),)
    coarse = share(levels_won(runs["cstn"])[:, large] == 5)
    why = (
        f"{share(missed):.0f} % of these images are missed, the right level would save "
        f"{share(missed & saved):.0f} %; level 5 wins {coarse:.0f} %"
    )
    return Finding(measured, above_zero(measured), why)
