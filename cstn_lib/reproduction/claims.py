"""Every claim of the paper that trained networks can judge: the table `CLAIMS`, and its verdicts.

A claim is one sentence, its place in the paper, a rule in words, the condition under which it is
judged, the trainings that it needs, and the rule as code (`cstn_lib.reproduction.rules`). All is
computed from finished runs' predictions tables (`cstn_lib.evaluation.predictions`); the paper's
numbers are in `cstn_lib.reproduction.paper`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pandas as pd

from cstn_lib.evaluation.controls import mean_box_hits
from cstn_lib.evaluation.metrics import Interval, area_histogram, ground_truth
from cstn_lib.reproduction.comparison import (
    common_seeds,
    gt_known_boxes,
    hit_difference,
    kinds_of_misses,
    transform_gain,
)
from cstn_lib.reproduction.experiments import (
    ALPHA_STUDY,
    LAMBDA_STUDY,
    Experiment,
    seeded_experiments,
)
from cstn_lib.reproduction.paper import RECALL, STANDS_FOR, TABLE_2, TABLE_3
from cstn_lib.reproduction.rules import (  # noqa: F401
    CLAIMS,
    DATASETS,
    HOLDS,
    HOLDS_NOT,
    IMAGENET,
    NOT_TESTED,
    VERDICTS,
    Evidence,
    Finding,
    Measured,
    Verdict,
    below,
    claim,
    first_true,
    interval_text,
    left_open,
    mean_points,
    share,
    weigh,
)
from cstn_lib.reproduction.runs import Run
from cstn_lib.reproduction.tables import (
    METHODS,
    METRICS,
    centred_square_hits,
    five_box_hits,
    runs_of,
)
from cstn_lib.support.errors import InputError, unknown_name

MATTERS = 5.0
"""Points of localization from which on a hyper-parameter or a gap matters."""

BARELY = 2.0
"""Points within which two shares of the images are nearly the same."""

MAPS = ("CAM", "HaS", "ACoL", "SPG", "ADL")
LAMBDAS = ("cstn", *LAMBDA_STUDY)
PRINTED_BEST = max(TABLE_3, key=lambda weight: TABLE_3[weight]["Top-1 Loc"])
LEVELS = {"level 4": "cstn-level-4", "level 5": "cstn-level-5"}
EQUAL_CARE = (
    "six trials on val for each method, the first the recipe found for CSTN in some hundred; "
    "levels that also learn the class by themselves"
)


def _ahead(of: Evidence, ours: str, theirs: str, metric: str = "top1_loc") -> Measured:
    """One method of Tables IV and V less another."""
    gap = of.gap(METHODS[ours], METHODS[theirs], metric)
    return Measured(f"{ours} less {theirs}", gap, of.paper(ours, theirs))


def _cstn_ahead(of: Evidence, theirs: str) -> Finding:
    """Of one other method; both rates explain it."""
    rates = f"GT-Known {of.rate('cstn'):.1f} % against {of.rate(METHODS[theirs]):.1f} %"
    return weigh([_ahead(of, "CSTN", theirs)], rates)


@claim(
    "Local transforms localize better than one global transform",
    "section II",
    "Top-1 Loc of CSTN less that of the same backbone with a global STN: the whole interval "
    "above 0.",
    "a global STN on the whole small backbone, from a square of 0.65, the best of three on val "
    "and the smallest; it ends below a centred square",
    ("cstn", "stn"),
    datasets=DATASETS,
)
def ahead_of_stn(of: Evidence) -> Finding:
    return _cstn_ahead(of, "global STN")


@claim(
    "CSTN localizes better than a deformable convolution",
    'section II ("cannot be directly utilized for localization")',
    "Top-1 Loc of CSTN less that of the same network with a deformable convolution: the whole "
    "interval above 0.",
    "the same localization network; windows, alpha and rates of its own, from val",
    ("cstn", "deform"),
)
def ahead_of_deformable(of: Evidence) -> Finding:
    return _cstn_ahead(of, "deformable convolution")


@claim(
    "The transform improves localization",
    "Table I, section IV-B",
    "Top-1 Loc by the transformed box less that by the default box of the same location: "
    "the whole interval above 0.",
    "votes that mean a place; levels that also learn the class by themselves; windows that "
    "start late and learn slowly",
    ("cstn",),
    datasets=DATASETS,
)
def transform(of: Evidence) -> Finding:
    runs = of.runs["cstn"]
    gain = transform_gain(runs, "top1_loc")
    habit = share(np.stack([mean_box_hits(run.predictions()) for run in runs]))
    paper = of.paper("with transform", "without transform")
    return weigh(
        [Measured("with less without transform", mean_points(gain), paper)],
        f"it rescues {share(gain > 0):.1f} % of the images and spoils {share(gain < 0):.1f} %; "
        f"GT-Known {of.rate('cstn'):.1f} %, the location's mean box {habit:.1f} %, a centred "
        f"square {share(centred_square_hits(runs[0])):.1f} %",
    )


def _ahead_of_plain(of: Evidence, column: str) -> Measured:
    """A column of Table II."""
    gap = of.gap("cstn", "plain", METRICS[column])
    paper = of.paper("With conv STN", "Without conv STN", column)
    return Measured(f"CSTN less plain convolution, {column}", gap, paper)


@claim(
    "CSTN localizes better than a plain convolution",
    "Table II, section IV-B",
    "Top-1 Loc of CSTN less that of the same network with a plain convolution: "
    "the whole interval above 0.",
    "plain convolutions with CSTN's windows, alpha and rate, which none of five other trials "
    "on val beat; levels that also learn the class by themselves",
    ("plain", "cstn"),
)
def cstn_localizes(of: Evidence) -> Finding:
    plain, moved = (of.rate(name, "top1_loc") for name in ("plain", "cstn"))
    fixed = share(of.hits("cstn", "top1_loc", transform=False))
    return weigh(
        [_ahead_of_plain(of, "Top-1 Loc")],
        f"features and location bring {fixed - plain:+.1f} points, moving the window "
        f"{moved - fixed:+.1f}",
    )


@claim(
    "CSTN classifies better than a plain convolution",
    "Table II, section IV-B",
    "Top-1 Class of CSTN less that of the same network with a plain convolution: "
    "the whole interval above 0.",
    "classes hard enough that errors are left; see how many",
    ("plain", "cstn"),
)
def cstn_classifies(of: Evidence) -> Finding:
    return weigh(
        [_ahead_of_plain(of, "Top-1 Class")],
        f"the plain convolution leaves {100 - of.rate('plain', 'top1_class'):.1f} % wrong; "
        f"the paper's {100 - TABLE_2['Without conv STN']['Top-1 Class']:.1f} %",
    )


def _by_lambda(of: Evidence, metric: str = "top1_loc") -> tuple[dict[float, str], float, float]:
    """The experiments of Table III from the smallest lambda to the largest, the best, the worst."""
    named = {of.runs[n][0].experiment.training.lambda_theta: n for n in of.runs if n != "plain"}
    by = {weight: named[weight] for weight in sorted(named)}
    rates = {weight: of.rate(name, metric) for weight, name in by.items()}
    return by, max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)


def _best_less_worst(of: Evidence, column: str, within: float | None = None) -> Measured:
    """The span of a column of Table III."""
    by, best, worst = _by_lambda(of, METRICS[column])
    printed = sorted(TABLE_3, key=lambda weight: TABLE_3[weight][column])
    gap, paper = (
        of.gap(by[best], by[worst], METRICS[column]),
        of.paper(printed[-1], printed[0], column),
    )
    return Measured("best less worst", gap, paper, within)


@claim(
    "Localization depends strongly on lambda",
    "Table III, section IV-B",
    f"Top-1 Loc at the best lambda less at the worst: at least {MATTERS:g} points, since the "
    "best of several is lucky as well as good, and the whole interval above 0.",
    "windows that start late; without the largest lambda the spread is small",
    LAMBDAS,
)
def lambda_matters(of: Evidence) -> Finding:
    by, best, worst = _by_lambda(of)
    measured = _best_less_worst(of, "Top-1 Loc")
    mean, low, high = measured.here
    verdict = first_true(holds=mean >= MATTERS and low > 0, refuted=high < MATTERS)
    why = (
        f"best at {best:g}, worst at {worst:g}; the median distance of theta to the identity falls "
        f"from {of.moved(by[0.0], 'distance'):.2f} at 0 to "
        f"{of.moved(by[max(by)], 'distance'):.2f} at {max(by):g}"
    )
    return Finding((measured,), verdict, why)


@claim(
    "The best lambda lies inside the range",
    "Table III",
    "The best Top-1 Loc lies at neither end, and less that at either end the whole interval is "
    "above 0; in part: above 0 for one end.",
    "windows that start late; the best lambda is read from all seeds of each row, and rows "
    "have different numbers",
    LAMBDAS,
)
def lambda_inside(of: Evidence) -> Finding:
    by, best, _ = _by_lambda(of)
    ends = {"0": (min(by), 0.0), "the largest": (max(by), max(TABLE_3))}
    factor = of.moved(by[best], "area factor")
    found = weigh(
        [
            Measured(f"best less {end}", of.gap(by[best], by[w]), of.paper(PRINTED_BEST, printed))
            for end, (w, printed) in ends.items()
        ],
        f"best at {best:g}, where the median window has {factor:.2f} times its area",
    )
    return found._replace(verdict=HOLDS_NOT) if best in (min(by), max(by)) else found


@claim(
    "Localization collapses without lambda",
    "Table III and its caption, Figure 7",
    "Top-1 Loc at the best positive lambda less at 0: the whole interval above 0.",
    "localization networks that start late and learn slowly; notebook 09 maps where they do "
    "not, and where one part tells the class",
    LAMBDAS,
)
def lambda_zero(of: Evidence) -> Finding:
    by, _, _ = _by_lambda(of)
    best = max((weight for weight in by if weight), key=lambda w: of.rate(by[w], "top1_loc"))
    gap, paper = of.gap(by[best], by[0.0]), of.paper(PRINTED_BEST, 0.0)
    factor = of.moved(by[0.0], "area factor")
    most = f"a loss of more than {max(gap.high, 0):.1f} points is excluded; "
    return weigh(
        [Measured(f"lambda {best:g} less 0", gap, paper)],
        f"{'' if gap.low > 0 else most}at 0 the median window has {factor:.2f} times the area of "
        "its default box",
    )


@claim(
    "At a large lambda localization tends to that without transform",
    "caption of Table III",
    "At the largest lambda, Top-1 Loc less that of the same network with plain convolutions: "
    f"the whole interval within {MATTERS:g} points of 0.",
    "1e-1 per example, where the paper's largest lambda weighs 0.16; by the paper's own rows "
    "this rule would not hold, either",
    (*LAMBDAS, "plain"),
)
def lambda_large(of: Evidence) -> Finding:
    by, _, _ = _by_lambda(of)
    most = max(by)
    distance, factor = (of.moved(by[most], column) for column in ("distance", "area factor"))
    return weigh(
        [Measured("CSTN less plain convolution", of.gap(by[most], "plain"), within=MATTERS)],
        f"at {most:g} theta still lies {distance:.2f} from the identity (median), and windows "
        f"have {factor:.2f} times their area",
    )


@claim(
    "Classification is barely affected by lambda",
    "Table III, section IV-B",
    f"Top-1 Class at the best lambda less at the worst: the whole interval below {BARELY:g} "
    "points.",
    "windows that start from trained features",
    LAMBDAS,
)
def lambda_class(of: Evidence) -> Finding:
    by, best, worst = _by_lambda(of, "top1_class")
    lowest, highest = (of.rate(by[weight], "top1_class") for weight in (worst, best))
    return weigh(
        [_best_less_worst(of, "Top-1 Class", BARELY)],
        f"Top-1 Class lies between {lowest:.1f} % and {highest:.1f} %",
    )


@claim(
    "Alpha can vary widely without much effect on localization",
    "sections IV-B and IV-C",
    "At each other positive alpha of the study, Top-1 Loc less that of CSTN: all whole "
    f"intervals within {MATTERS:g} points of 0; in part: some.",
    "levels that also learn the class by themselves, which Eq. 4 does not ask",
    ("cstn", *ALPHA_STUDY),
)
def alpha(of: Evidence) -> Finding:
    alphas = {runs[0].experiment.training.alpha_scale: name for name, runs in of.runs.items()}
    won = [f"{share(of.level_5_wins(name)):.0f} % at {a:g}" for a, name in sorted(alphas.items())]
    others = {name: alpha for name, alpha in ALPHA_STUDY.items() if alpha}
    return weigh(
        [
            Measured(f"alpha {alpha:g}", of.gap(name, "cstn"), within=MATTERS)
            for name, alpha in others.items()
        ],
        f"level 5 wins {', '.join(won)}",
    )


@claim(
    "Each level specialises in its sizes",
    "Figure 6(a), (b)",
    "The median area halves the images. GT-Known Loc of level 4 alone less that of level 5 "
    "alone on the smaller half, and the reverse on the larger: both whole intervals above 0; "
    "in part: level 5's lead grows from the smaller half to the larger, the interval above 0.",
    "windows of two sizes, about one and two thirds of the image; the paper's are alike",
    (*LEVELS.values(), "cstn"),
)
def levels_specialise(of: Evidence) -> Finding:
    fine, coarse = (of.hits(name).astype(int) for name in LEVELS.values())
    small, large, change = of.by_size(coarse - fine)
    measured = (
        Measured("smaller half: level 4 less 5", below(small, 0.0)),
        Measured("larger half: level 5 less 4", large),
    )
    holds = small.high < 0 < large.low
    verdict = first_true(holds=holds, in_part=change.low > 0, refuted=change.high < 0)
    smaller, larger, _ = of.by_size(of.level_5_wins())
    why = (
        f"where both vote, level 5 wins {smaller.mean:.0f} % of the smaller and "
        f"{larger.mean:.0f} % of the larger objects"
    )
    return Finding(measured, verdict, why)


@claim(
    "Both levels together beat each alone",
    "Figure 6(c)",
    "Top-1 Loc of both less that of each level alone: both whole intervals above 0; in part: one.",
    "levels that also learn the class by themselves, which Eq. 4 does not ask",
    (*LEVELS.values(), "cstn"),
)
def both_levels(of: Evidence) -> Finding:
    return weigh(
        [
            Measured(f"both less {panel}", of.gap("cstn", name), of.paper("levels 4 and 5", panel))
            for panel, name in LEVELS.items()
        ],
        f"the winner is right on {of.rate('cstn'):.1f} %; an oracle that chooses the level "
        f"alone would be on {share(of.levels_right()):.1f} %",
    )


@claim(
    "The transform adds more with both levels",
    "Figure 6, section IV-B",
    "What the transform adds to Top-1 Loc with both levels less what it adds to each alone: "
    "both whole intervals above 0; in part: one.",
    "a level alone must serve all sizes through one window",
    (*LEVELS.values(), "cstn"),
)
def transform_stronger(of: Evidence) -> Finding:
    groups = common_seeds(*(of.runs[name] for name in (*LEVELS.values(), "cstn")))
    *alone, both = (transform_gain(group, "top1_loc") for group in groups)
    gains = ", ".join(f"{100 * gain.mean():+.1f}" for gain in (*alone, both))
    return weigh(
        [
            Measured(f"gain of both less of {panel}", mean_points(both - gain, most=2))
            for panel, gain in zip(LEVELS, alone, strict=True)
        ],
        f"gains of level 4, level 5 and both: {gains} points",
    )


def _misses(of: Evidence) -> str:
    """What CSTN's wrong boxes look like, in words."""
    run = of.runs["cstn"][0]
    kinds = pd.Series(kinds_of_misses(gt_known_boxes(run), ground_truth(run.predictions())))
    shares = kinds[kinds != "right"].value_counts(normalize=True)
    told = ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in shares.items())
    return f"of CSTN's misses: {told or 'none'} (seed 0)"


@claim(
    "CSTN localizes better than CAM, HaS, ACoL and SPG",
    "Table IV, section IV-C",
    "Top-1 Loc of CSTN less that of each: all whole intervals above 0; in part: some.",
    EQUAL_CARE,
    ("cstn", "cam", "has", "acol", "spg"),
)
def ahead_of_cams(of: Evidence) -> Finding:
    return weigh([_ahead(of, "CSTN", rival) for rival in MAPS[:4]], _misses(of))


@claim(
    "ADL localizes better than CSTN",
    "Table IV, section IV-C",
    "Top-1 Loc of ADL less that of CSTN: the whole interval above 0.",
    EQUAL_CARE,
    ("cstn", "adl"),
)
def behind_adl(of: Evidence) -> Finding:
    recall, winner = of.rate("cstn", "any_box"), of.rate("cstn")
    return weigh(
        [_ahead(of, "ADL", "CSTN")],
        f"CSTN's winner is right on {winner:.1f} %, ADL's box on {of.rate('adl'):.1f} %, some "
        f"box of CSTN's on {recall:.1f} %: {recall - winner:.1f} points are lost by selection",
    )


def _top5_ahead(of: Evidence, *rivals: str, within: float | None = None) -> Finding:
    """CSTN's Top-5 box less a rival's GT-Known Loc: a score map has one box, its "top five"."""
    ours, measured = "CSTN Top-5 box", []
    for theirs in rivals:
        gap = of.gap("cstn", METHODS[theirs], "top5_box_loc")
        paper = of.paper(ours, theirs, "GT-Known Loc")
        measured.append(Measured(f"{ours} less {theirs}", gap, paper, within))
    one, five, some = (of.rate("cstn", m) for m in ("gt_known_loc", "top5_box_loc", "any_box"))
    return weigh(
        measured,
        f"CSTN's first box is right on {one:.1f} %, one of its five on {five:.1f} %, any on "
        f"{some:.1f} %; one of five fixed boxes, without a network, on "
        f"{share(five_box_hits(of.runs['cstn'][0])):.1f} %",
    )


@claim(
    "One of CSTN's five best boxes is right more often than ADL's box",
    "Table IV, section IV-C",
    "GT-Known Loc of CSTN's Top-5 box less that of ADL: the whole interval above 0.",
    "five tries against one; Table IV has CAM at five thresholds, too",
    ("cstn", "adl"),
)
def top5_ahead_of_adl(of: Evidence) -> Finding:
    return _top5_ahead(of, "ADL")


@claim(
    "Some box of the image is almost always right",
    f"section IV-C (recall close to {RECALL:g} %)",
    f"The share of images where any box is right: the whole interval above {RECALL - BARELY:g} %.",
    "65 windows of two sizes, which θ may move and stretch",
    ("cstn", "plain"),
)
def recall(of: Evidence) -> Finding:
    floor, found = RECALL - BARELY, mean_points(of.hits("cstn", "any_box"))
    printed = of.printed("any box", "recall")
    here = Interval(*(end - floor for end in found))
    return weigh(
        [Measured(f"any box less {floor:g} %", here, None if printed is None else printed - floor)],
        f"any box {found.mean:.1f} %; of a plain convolution's default boxes some is right on "
        f"{of.rate('plain', 'any_box'):.1f} % for free",
    )


@claim(
    "Where sizes are spread, CSTN falls behind the CAM family",
    "Table V, section IV-C",
    "Top-1 Loc of each of CAM, HaS, ACoL, SPG and ADL less that of CSTN: all whole intervals "
    "above 0; in part: some.",
    "sizes as spread as ImageNet's; windows chosen on this data set's val",
    ("cstn", "cam", "has", "acol", "spg", "adl"),
    datasets=(IMAGENET,),
)
def behind_cams(of: Evidence) -> Finding:
    leads = [_ahead(of, rival, "CSTN", "gt_known_loc").here.mean for rival in MAPS]
    known = ", ".join(f"{lead:+.1f}" for lead in leads)
    measured = [_ahead(of, rival, "CSTN") for rival in MAPS]
    return weigh(measured, f"by GT-Known {known} points; {_misses(of)}")


@claim(
    "Its Top-5 box is comparable to SPG and ADL there",
    "Table V, section IV-C",
    "GT-Known Loc of CSTN's Top-5 box less that of SPG, and of ADL: both whole intervals "
    f"within {MATTERS:g} points of 0; in part: one.",
    "five tries against one; Table V has CAM at five thresholds, too",
    ("cstn", "spg", "adl"),
    datasets=(IMAGENET,),
)
def top5_comparable(of: Evidence) -> Finding:
    return _top5_ahead(of, "SPG", "ADL", within=MATTERS)


@claim(
    "CAM is less sensitive to scale than CSTN",
    "caption of Table V",
    "CSTN less CAM, GT-Known Loc, on the fifth of the images with the largest objects and on "
    "that with the smallest: the first interval lies above the second; in part: the interval "
    "of their difference lies above 0.",
    "a threshold chosen on val for all sizes at once",
    ("cstn", "cam"),
    datasets=(IMAGENET,),
)
def cam_less_sensitive(of: Evidence) -> Finding:
    lead = hit_difference(of.runs["cstn"], of.runs["cam"], "gt_known_loc")
    small, large, change = of.by_size(lead, groups=5)
    measured = (Measured("CSTN less CAM: largest less smallest fifth", change),)
    holds = large.low > small.high
    verdict = first_true(holds=holds, in_part=change.low > 0, refuted=change.high < 0)
    why = (
        f"CSTN less CAM: {interval_text(small)} on the smallest fifth, {interval_text(large)} on "
        "the largest"
    )
    return Finding(measured, verdict, left_open(measured) + why)


@claim(
    "Most small objects are missed",
    "Figure 8, caption of Table V, section IV-C",
    "GT-Known Loc below one half on the two lowest of the ten bins of area, and on the fifth "
    "of the images with the smallest objects: both whole intervals; in part: one.",
    "objects below half of the smallest window have no right box unless it shrinks",
    ("cstn",),
    datasets=(IMAGENET,),
)
def small_missed(of: Evidence) -> Finding:
    known, anywhere, sizes = of.hits("cstn"), of.hits("cstn", "any_box"), of.sizes()
    lowest = sizes <= max(area_histogram(sizes, {}).edges[2], sizes.min())
    fifth = np.argsort(sizes, kind="stable")[: max(1, len(sizes) // 5)]
    groups = {"two lowest bins": lowest, "smallest fifth": fifth}
    told = [
        f"{name}: {share(known[:, some]):.0f} % localized, any box {share(anywhere[:, some]):.0f} %"
        for name, some in groups.items()
    ]
    return weigh(
        [
            Measured(f"one half less {name}", below(mean_points(known[:, some]), 50.0))
            for name, some in groups.items()
        ],
        "; ".join(told),
    )


@claim(
    "Large objects are favoured",
    "Figure 8, section IV-C",
    "GT-Known Loc on the half of the images with the larger objects less that on the other: "
    "the whole interval above 0; and the interval on the largest fifth lies above that on the "
    "smallest; in part: one of the two.",
    "the coarse window is nearer to large objects than the fine one to small ones",
    ("cstn",),
    datasets=(IMAGENET,),
)
def large_favoured(of: Evidence) -> Finding:
    known = of.hits("cstn")
    halves, (smallest, largest, fifths) = of.by_size(known), of.by_size(known, groups=5)
    measured = (
        Measured("larger half less smaller", halves[2]),
        Measured("largest fifth less smallest", fifths),
    )
    sure = [measured[0].says == 1, largest.low > smallest.high]
    refuted = any(m.says == -1 for m in measured)
    verdict = first_true(holds=all(sure), in_part=any(sure), refuted=refuted)
    few, many, _ = of.by_size(of.level_5_wins(), groups=5)
    unseeing = centred_square_hits(of.runs["cstn"][0])[None], of.hits("cstn", transform=False)
    square, default = (of.by_size(right)[2].mean for right in unseeing)
    why = (
        f"largest fifth {largest.mean:.0f} % localized, smallest {smallest.mean:.0f} %; level 5 "
        f"wins {many.mean:.0f} % and {few.mean:.0f} % of them; larger half less smaller of the "
        f"default boxes {default:+.1f}, of the centred square, which never looks, {square:+.1f}"
    )
    return Finding(measured, verdict, why)


@claim(
    "Large objects are missed because the wrong level wins",
    "Figure 9, section IV-C",
    "Of the missed images (GT-Known Loc) with the larger half of the objects, the share where "
    "level 4 wins and level 5's own best box is right, less one half: the whole interval above 0.",
    "of the few large objects that are missed; levels' own best boxes, one by one",
    ("cstn",),
    datasets=(IMAGENET,),
)
def wrong_level(of: Evidence) -> Finding:
    sizes = of.sizes()
    large = np.argsort(sizes, kind="stable")[len(sizes) // 2 :]
    missed, saved = ~of.hits("cstn")[:, large], of.levels_right()[:, large]
    coarse, square = of.level_5_wins()[:, large], centred_square_hits(of.runs["cstn"][0])[large]
    most = max(missed.mean(), 1e-9)
    # a mean over all images of the half that is the share among its missed ones, less one half
    excess = missed * ((saved & ~coarse) - 0.5) / most
    fine_won, coarse_won, fixed = (
        share(missed & right) / most for right in (saved & ~coarse, saved & coarse, square)
    )
    return weigh(
        [Measured("share less one half", mean_points(excess, most=0.5))],
        f"{share(missed):.1f} % of these images are missed; of the misses level 4 won "
        f"{fine_won:.0f} % with level 5 right, level 5 won {coarse_won:.0f} % with level 4 right; "
        f"the centred square is right on {fixed:.0f} %",
    )


def claim_experiments(
    name: str, profile: str, *, dataset: str = "", seeds: int = 0
) -> dict[str, list[Experiment]]:
    """Every training that a claim needs, by data set, seed after seed of each.

    Args:
        name: a key of `CLAIMS`.
        profile: one of `cstn_lib.reproduction.experiments.PROFILES`.
        dataset: instead of the claim's own; after a comma, in ImageNet's place.
        seeds: how many; 0: as many as the profile has.

    Raises:
        InputError: a name is unknown, or there are more than two data sets.
    """
    if name not in CLAIMS:
        raise unknown_name("claim", name, CLAIMS)
    claim, chosen = CLAIMS[name], data_sets(dataset, DATASETS, name)
    places = dict(zip(DATASETS, chosen, strict=True))
    return {
        data: seeded_experiments(claim.experiments, data, profile, seeds=seeds)
        for data in dict.fromkeys(places[own] for own in claim.datasets)
    }


def data_sets(dataset: str, own: Sequence[str], name: str) -> list[str]:
    """What takes the place of each of the data sets of a claim or result.

    Args:
        dataset: with commas where there are several; the last one serves for all that follow;
            ``""``: each itself.

    Raises:
        InputError: there are more than places.
    """
    chosen = dataset.split(",") if dataset else list(own)
    if len(chosen) > len(own):
        most = "one data set" if len(own) == 1 else "two data sets"
        raise InputError(f"dataset {dataset!r}: expected at most {most} for {name}")
    return chosen + chosen[-1:] * (len(own) - len(chosen))


def judge(
    open_run: Callable[[Experiment], Run],
    profile: str,
    *,
    only: Sequence[str] = (),
    dataset: str = "",
    seeds: int = 0,
) -> list[Verdict]:
    """The verdict on each claim, on each of its data sets.

    Args:
        open_run: such as `cstn_lib.reproduction.runs.RunStore.open`, which leaves claims of
            unfinished runs *not tested*, or ``RunStore.run``, which trains what is missing.
        only: names of `CLAIMS`; empty: all.
        profile, dataset, seeds: see `claim_experiments`, and there for errors.
    """
    opened, verdicts = cache(open_run), []
    for name in only or CLAIMS:
        needed = claim_experiments(name, profile, dataset=dataset, seeds=seeds)
        for data, experiments in needed.items():
            groups = runs_of([opened(experiment) for experiment in experiments])
            missing = [one for one, runs in groups.items() if not all(r.finished for r in runs)]
            if missing:
                finding = Finding((), NOT_TESTED, f"no finished run of {', '.join(missing)}")
            else:
                finding = CLAIMS[name].decide(Evidence(groups, STANDS_FOR.get(data, "")))
            verdicts.append(Verdict(name, CLAIMS[name], data, *finding))
    return verdicts


def claims_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per claim and data set, as text; numbers in percentage points with 95 % intervals."""
    rows = [
        {
            "id": verdict.id,
            "claim": verdict.claim.text,
            "data set": verdict.dataset,
            "place": verdict.claim.place,
            "rule": verdict.claim.rule,
            "paper": _listed(verdict, lambda m: "" if m.paper is None else f"{m.paper:+.1f}"),
            "here": _listed(verdict, lambda m: interval_text(m.here)),
            "verdict": verdict.verdict,
            "why": verdict.why,
            "condition": verdict.condition,
        }
        for verdict in verdicts
    ]
    return pd.DataFrame(rows).set_index("id")


def measured_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per number behind the verdicts: the fields of `Measured`, in points."""
    rows = [
        (verdict.claim.text, verdict.dataset, m.what, *m.here, m.paper, m.within)
        for verdict in verdicts
        for m in verdict.measured
    ]
    names, numbers = ["claim", "data set", "measured [points]"], ["here", "low", "high"]
    table = pd.DataFrame(rows, columns=[*names, *numbers, "paper", "within"])
    return table.set_index(names).astype(float).round(2)


def _listed(verdict: Verdict, text: Callable[[Measured], str]) -> str:
    """A text for each number; where there are several, behind its name."""
    several = len(verdict.measured) > 1
    texts = {m.what: text(m) for m in verdict.measured}
    return "; ".join(f"{what}: {said}" if several else said for what, said in texts.items() if said)
