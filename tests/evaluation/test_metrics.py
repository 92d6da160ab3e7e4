"""The metrics against torchvision, plain loops and tables made by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from torchvision.ops import box_iou

from cstn_lib.evaluation.metrics import (
    MAX_BOX_ACC_IOUS,
    BoxList,
    area_histogram,
    best_iou,
    box_area,
    by_fusion,
    choose_threshold,
    evaluate,
    ground_truth,
    hits,
    image_interval,
    in_published_pixels,
    max_box_acc,
    max_box_acc_v2,
    mean_interval,
    paired_iou,
    threshold_curve,
)
from cstn_lib.evaluation.score_maps import CAM_THRESHOLD, THRESHOLDS
from cstn_lib.support.errors import InputError


def random_boxes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    corners = np.sort(rng.uniform(0, 1, (*shape, 2, 2)), axis=-2)
    return corners.reshape(*shape, 4)


def loop_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


# Boxes


@given(st.integers(0, 2**32))
def test_paired_iou_is_that_of_torchvision(seed):
    rng = np.random.default_rng(seed)
    a, b = random_boxes(rng, 6), random_boxes(rng, 5)
    ours = paired_iou(a[:, None], b[None])
    theirs = box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert np.allclose(ours, theirs, atol=1e-12)


def test_paired_iou_at_the_edges():
    unit = np.array([0.0, 0.0, 1.0, 1.0])
    half = np.array([0.0, 0.0, 0.5, 1.0])
    empty = np.array([0.3, 0.3, 0.3, 0.3])
    assert paired_iou(unit, unit) == 1
    assert paired_iou(unit, half) == 0.5
    assert paired_iou(half, np.array([0.5, 0.0, 1.0, 1.0])) == 0, "touching"
    assert paired_iou(half[None], empty[None]) == [0]
    assert paired_iou(empty[None], empty[None]) == [0], "not NaN"


def test_box_area():
    assert box_area(np.array([[0.1, 0.2, 0.5, 0.7], [0, 0, 1, 1]])) == pytest.approx([0.2, 1])


def test_box_list():
    boxes = [np.array([0, 0, 1, 1, 0, 0, 0.5, 0.5]), np.zeros(0), np.array([[0, 0, 0.2, 0.2]])]
    truth = BoxList.of(boxes)
    assert truth.offsets.tolist() == [0, 2, 2, 3]
    assert truth.boxes.shape == (3, 4)
    assert truth.boxes[truth.offsets[2]].tolist() == [0, 0, 0.2, 0.2]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(0, 2**32))
def test_best_iou_against_a_loop(counts, seed):
    rng = np.random.default_rng(seed)
    gt = [random_boxes(rng, n) for n in counts]
    boxes = random_boxes(rng, len(counts), 3)
    result = best_iou(boxes, BoxList.of(gt))
    assert result.shape == (len(counts), 3)
    for image, candidates in enumerate(gt):
        for k in range(3):
            expected = max((loop_iou(boxes[image, k], g) for g in candidates), default=0.0)
            assert result[image, k] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("counts", [[0, 0], [0, 2, 0], [2, 0, 0], [0, 0, 3]])
def test_best_iou_without_ground_truth(counts):
    """Images without boxes at either end or in between borrow none from their neighbours."""
    truth = BoxList.of([np.tile([0.0, 0.0, 1.0, 1.0], n) for n in counts])
    frame = np.broadcast_to([0.0, 0.0, 1.0, 1.0], (len(counts), 1, 4))
    assert best_iou(frame, truth)[:, 0].tolist() == [float(n > 0) for n in counts]


# Metrics of a table

GT = [0.2, 0.2, 0.8, 0.8]
GOOD = [0.2, 0.2, 0.8, 0.7]  # IoU 5/6
BAD = [0.0, 0.0, 0.3, 0.3]  # IoU 1/44
OTHER_GT = [0.0, 0.0, 0.3, 0.25]


def row(
    *,
    label: int = 1,
    predicted: int = 1,
    gt: list[float] = GT,
    predicted_box: tuple[list[float], ...] = (GOOD,) * 5,
    true_box: tuple[list[float], ...] | None = None,
    default_box: list[float] = BAD,
    any_iou: float = 0.9,
    any_default_iou: float = 0.1,
) -> dict:
    return {
        "label": label,
        "predicted": predicted,
        "gt_boxes": np.array(gt),
        "predicted_box": np.array(predicted_box).ravel(),
        "true_box": np.array(true_box or predicted_box).ravel(),
        "predicted_default_box": np.array(default_box * 5),
        "true_default_box": np.array(default_box * 5),
        "any_iou": any_iou,
        "any_default_iou": any_default_iou,
    }


NAMES = ["top1_class", "top1_loc", "gt_known_loc", "top5_box_loc", "any_box"]
TABLE = {
    "all right": (row(), [1, 1, 1, 1, 1]),
    "class wrong, box right": (row(predicted=2), [0, 0, 1, 1, 1]),
    "box right under the true class only": (
        row(predicted=2, predicted_box=(BAD,) * 5, true_box=(GOOD,) * 5),
        [0, 0, 1, 1, 1],
    ),
    "class and predicted class's box right, true class's wrong": (
        row(predicted=2, true_box=(BAD,) * 5),
        [0, 0, 0, 0, 1],
    ),
    "fifth box right": (row(predicted_box=(BAD, BAD, BAD, BAD, GOOD)), [1, 0, 0, 1, 1]),
    "no box of the five, but some": (row(predicted_box=(BAD,) * 5), [1, 0, 0, 0, 1]),
    "no box at all": (row(predicted_box=(BAD,) * 5, any_iou=0.49), [1, 0, 0, 0, 0]),
    "second ground-truth box hit": (
        row(gt=OTHER_GT + GT, predicted_box=(GOOD,) * 5),
        [1, 1, 1, 1, 1],
    ),
    "no ground truth": (row(gt=[], any_iou=0.0), [1, 0, 0, 0, 0]),
    "exactly half": (
        row(gt=[0, 0, 1, 1], predicted_box=([0, 0, 0.5, 1],) * 5, any_iou=0.5),
        [1, 1, 1, 1, 1],
    ),
    "box right in the second place": (
        row(predicted_box=(BAD, GOOD, BAD, BAD, BAD)),
        [1, 0, 0, 1, 1],
    ),
}


def table_of(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows)


@pytest.mark.parametrize("name", TABLE)
def test_hits_of_one_image(name):
    made, expected = TABLE[name]
    right = hits(table_of([made]))
    assert right.columns.tolist() == NAMES
    assert right.dtypes.eq(bool).all()
    assert right.iloc[0].tolist() == [bool(e) for e in expected]


def test_hits_row_by_row():
    right = hits(table_of([made for made, _ in TABLE.values()]))
    assert right.to_numpy().astype(int).tolist() == [expected for _, expected in TABLE.values()]


def test_default_boxes_are_judged_apart():
    table = table_of(
        [
            row(),  # transformed right, default wrong
            row(predicted_box=(BAD,) * 5, any_iou=0.2, default_box=GOOD, any_default_iou=0.8),
            row(predicted=3, default_box=GOOD, any_default_iou=0.8),
        ]
    )
    transformed, default = hits(table), hits(table, transform=False)
    assert transformed["gt_known_loc"].tolist() == [True, False, True]
    assert default["gt_known_loc"].tolist() == [False, True, True]
    assert default["top1_loc"].tolist() == [False, True, False]
    assert default["top5_box_loc"].tolist() == [False, True, True]
    assert transformed["any_box"].tolist() == [True, False, True]
    assert default["any_box"].tolist() == [False, True, True]
    assert default["top1_class"].tolist() == transformed["top1_class"].tolist()


def test_the_fused_box_takes_the_place_of_the_best_five():
    """Right where the best is wrong, wrong where all five are right, right under the true class."""
    of = {"predicted_box": (BAD,) * 5}
    made = [row(**of), row(), row(predicted=2, **of)]
    fused = [(GOOD, GOOD), (BAD, BAD), (BAD, GOOD)]
    for line, (predicted, true) in zip(made, fused, strict=True):
        line |= {"predicted_fused_box": np.array(predicted), "true_fused_box": np.array(true)}
    right = hits(by_fusion(table_of(made)))
    assert right.astype(int).to_numpy().tolist() == [
        [1, 1, 1, 1, 1],
        [1, 0, 0, 0, 1],
        [0, 0, 1, 1, 1],
    ]
    assert max_box_acc(by_fusion(table_of(made))) == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="fused box: expected"):
        by_fusion(table_of([row()]))


def test_evaluate_gives_fractions_of_the_images():
    rows = [made for made, _ in TABLE.values()]
    expected = np.mean([e for _, e in TABLE.values()], axis=0)
    values = evaluate(table_of(rows))
    assert list(values) == NAMES
    assert all(isinstance(value, float) for value in values.values())
    assert list(values.values()) == pytest.approx(expected.tolist())


def test_fifty_thousand_images():
    """As many as ILSVRC validates on: the same fractions as of the rows repeated."""
    rows = [made for made, _ in TABLE.values()] * 4  # 44 rows, repeated to 50,028
    table = table_of(rows)
    large = pd.concat([table] * 1137, ignore_index=True)
    assert len(large) >= 50_000
    assert evaluate(large) == pytest.approx(evaluate(table))


def test_ground_truth():
    truth = ground_truth(table_of([row(gt=GT + OTHER_GT), row(gt=[]), row(gt=OTHER_GT)]))
    assert truth.offsets.tolist() == [0, 2, 2, 3]
    assert truth.boxes.tolist() == [GT, OTHER_GT, OTHER_GT]


def test_index_of_the_table_does_not_matter():
    """A selection keeps the labels of its rows."""
    table = table_of([made for made, _ in TABLE.values()])
    chosen = table[table["label"] != table["predicted"]]
    expected = [e for _, e in TABLE.values() if not e[0]]
    assert hits(chosen).to_numpy().astype(int).tolist() == expected


# Score maps

FRAME = [0.0, 0.0, 1.0, 1.0]
NOTHING = [0.0] * 4


def score_map_row(
    boxes: dict[float, list[float]],
    *,
    others: dict[float, list[float]] | None = None,
    label: int = 1,
    predicted: int = 1,
    gt: list[float] = GT,
) -> dict:
    """A row by the box of the largest component at some thresholds and of another component.

    At the thresholds not named nothing is active.
    """
    largest = [boxes.get(threshold, NOTHING) for threshold in THRESHOLDS]
    second = [(others or {}).get(threshold, NOTHING) for threshold in THRESHOLDS]
    truth = np.reshape(gt, (-1, 4))
    anywhere = [
        max((loop_iou(box, g) for box in pair for g in truth), default=0.0)
        for pair in zip(largest, second, strict=True)
    ]
    return {
        "label": label,
        "predicted": predicted,
        "gt_boxes": np.array(gt),
        "true_box": np.array(boxes.get(CAM_THRESHOLD, NOTHING)),
        "any_iou": anywhere[THRESHOLDS.index(CAM_THRESHOLD)],
        "threshold_boxes": np.ravel(largest),
        "threshold_any_iou": np.array(anywhere),
    }


def test_score_maps_at_thresholds():
    table = table_of(
        [
            score_map_row({0.2: BAD, 0.4: GOOD}, others={0.2: GOOD}),
            score_map_row({0.2: GOOD, 0.4: GOOD}, predicted=2),
            score_map_row({0.2: GOOD}, gt=OTHER_GT + GT),
            score_map_row({0.2: GOOD}, gt=[]),
        ]
    )
    at_20, at_40 = hits(table), hits(table, threshold=0.4)
    assert at_20.columns.tolist() == at_40.columns.tolist() == NAMES
    expected = [[1, 0, 0, 0, 1], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    assert at_20.to_numpy().astype(int).tolist() == expected
    assert hits(table, threshold=CAM_THRESHOLD).equals(at_20)
    expected = [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert at_40.to_numpy().astype(int).tolist() == expected
    assert evaluate(table, threshold=0.4)["gt_known_loc"] == 0.5
    curve = threshold_curve(table)
    assert curve.shape == (50,)
    assert dict(zip(THRESHOLDS, curve, strict=True))[0.4] == 0.5
    assert (curve > 0).sum() == 2


def test_choose_threshold():
    middle = score_map_row({t: GOOD for t in (0.3, 0.32, 0.34, 0.6)})
    assert choose_threshold(table_of([middle])) == 0.34, "the third of four"
    more = score_map_row({t: GOOD for t in (0.32, 0.34, 0.36)})
    assert choose_threshold(table_of([middle, more])) == 0.34, "the second of two"
    assert choose_threshold(table_of([row()])) is None


def test_what_cannot_be_judged():
    maps, votes = table_of([score_map_row({0.2: GOOD})]), table_of([row()])
    for call in (
        lambda: hits(votes, threshold=0.2),
        lambda: hits(maps, threshold=0.21),
        lambda: hits(maps, transform=False),
        lambda: threshold_curve(votes),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert "expected" in str(caught.value) and "\n" not in str(caught.value)


def slow_max_box_acc(rows: list[dict], iou: float, column: str) -> float:
    """By loops over thresholds and images."""
    rates = []
    for at in range(len(THRESHOLDS)):
        right = 0
        for made in rows:
            truth = made["gt_boxes"].reshape(-1, 4)
            if column == "threshold_boxes":
                box = made[column].reshape(-1, 4)[at]
                reached = max((loop_iou(box, g) for g in truth), default=0.0)
            else:
                reached = made[column][at]
            right += reached >= iou
        rates.append(right / len(rows))
    return max(rates)


@given(st.integers(0, 2**32), st.integers(1, 5))
def test_max_box_acc_against_loops(seed, images):
    rng = np.random.default_rng(seed)
    rows = [
        score_map_row(
            {t: random_boxes(rng).tolist() for t in THRESHOLDS},
            others={t: random_boxes(rng).tolist() for t in THRESHOLDS},
            gt=random_boxes(rng, int(rng.integers(0, 3))).ravel().tolist(),
        )
        for _ in range(images)
    ]
    table = table_of(rows)
    for iou in MAX_BOX_ACC_IOUS:
        expected = slow_max_box_acc(rows, iou, "threshold_boxes")
        assert max_box_acc(table, iou) == pytest.approx(expected)
    expected = [slow_max_box_acc(rows, iou, "threshold_any_iou") for iou in MAX_BOX_ACC_IOUS]
    assert max_box_acc_v2(table).mean() == pytest.approx(np.mean(expected))
    assert max_box_acc_v2(table).shape == (images,)
    of_largest = np.mean([max_box_acc(table, iou) for iou in MAX_BOX_ACC_IOUS])
    assert max_box_acc_v2(table).mean() >= of_largest - 1e-12  # the sums differ in their order


def published_iou(found: tuple[int, ...], truth: tuple[int, ...]) -> float:
    """As wsolevaluation computes it, from x0, y0, x1, y1 in pixels."""

    def area(x0: int, y0: int, x1: int, y1: int) -> int:
        return max(x1 - x0 + 1, 0) * max(y1 - y0 + 1, 0)

    (a, b, c, d), (e, f, g, h) = found, truth
    both = area(max(a, e), max(b, f), min(c, g), min(d, h))
    return both / (area(*found) + area(*truth) - both)


@given(st.lists(st.tuples(*[st.integers(0, 40)] * 8), min_size=1, max_size=8))
def test_max_box_acc_in_published_pixels(corners):
    """A component of columns x0 to x1 - 1 is the box x0, x1 there, at most the last column."""
    rows, expected = [], []
    for x0, x1, y0, y1, *truth in corners:
        found = (min(x0, x1), min(y0, y1), max(x0, x1) + 1, max(y0, y1) + 1)
        truth = (min(truth[:2]), min(truth[2:]), max(truth[:2]) + 1, max(truth[2:]) + 1)
        size = [50, 41, 50, 41]
        box, gt = ([v / n for v, n in zip(b, size, strict=True)] for b in (found, truth))
        rows.append(score_map_row(dict.fromkeys(THRESHOLDS, box), gt=gt))
        ends = [tuple(np.minimum(b, [49, 40, 49, 40])) for b in (found, truth)]
        expected.append(published_iou(*ends) >= 0.5)
    table = in_published_pixels(table_of(rows), (41, 50))
    assert max_box_acc(table) == pytest.approx(np.mean(expected))


@given(st.integers(1, 300), st.integers(1, 300))
def test_exactly_one_half_counts_in_published_pixels(width, height):
    """Of any image: 2 x 2 pixels of 2 x 4, whose IoU the protocol's own code computes exactly."""
    size = (height + 4, width + 2)
    found, truth = ([0, 0, 1 / size[1], rows / size[0]] for rows in (1, 3))
    rows = [score_map_row(dict.fromkeys(THRESHOLDS, found), gt=truth)]
    assert max_box_acc(in_published_pixels(table_of(rows), size)) == 1


def test_published_pixels_leave_an_empty_box_empty():
    rows = [score_map_row({t: [0, 0, 0, 0] for t in THRESHOLDS}, gt=[0, 0, 0.01, 0.01])]
    assert max_box_acc(in_published_pixels(table_of(rows), (100, 100))) == 0


def test_max_box_acc_v2_takes_the_best_threshold_of_each_iou():
    half = [0.0, 0.0, 0.5, 1.0]
    rows = [
        score_map_row({0.2: half, 0.4: FRAME}, gt=[0, 0, 0.4, 1]),  # IoU 0.8 and 0.4
        score_map_row({0.2: [0.9, 0.9, 1, 1], 0.4: FRAME}, gt=half),  # IoU 0 and 0.5
    ]
    table = table_of(rows)
    assert max_box_acc(table, 0.3) == 1 and max_box_acc(table, 0.7) == 0.5
    assert max_box_acc(table) == 0.5
    assert max_box_acc_v2(table).mean() == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_max_box_acc_of_votes():
    """One box an image and no threshold: GT-Known Loc at each IoU."""
    rows = [
        row(),  # IoU 5/6
        row(predicted_box=(FRAME,) * 5),  # IoU 0.36
        row(predicted_box=(BAD, GOOD, GOOD, GOOD, GOOD)),  # the first counts
    ]
    table = table_of(rows)
    assert max_box_acc(table) == evaluate(table)["gt_known_loc"] == pytest.approx(1 / 3)
    assert max_box_acc_v2(table).mean() == pytest.approx((2 / 3 + 1 / 3 + 1 / 3) / 3)


def test_fifty_thousand_score_maps():
    """As many as ILSVRC validates on: the same numbers as of the rows repeated."""
    rng = np.random.default_rng(0)
    rows = [
        score_map_row(
            {t: random_boxes(rng).tolist() for t in THRESHOLDS},
            gt=random_boxes(rng, 1 + i % 2).ravel().tolist(),
        )
        for i in range(50)
    ]
    table = table_of(rows)
    large = pd.concat([table] * 1000, ignore_index=True)
    assert choose_threshold(large) == choose_threshold(table)
    assert max_box_acc(large) == pytest.approx(max_box_acc(table))
    assert max_box_acc_v2(large).mean() == pytest.approx(max_box_acc_v2(table).mean())


# Histograms and intervals


def test_area_histogram():
    areas = np.array([0.1, 0.11, 0.35, 0.6, 0.65, 0.9])
    hit = {
        "default": np.array([1, 0, 0, 1, 0, 0], dtype=bool),
        "transformed": np.array([1, 1, 0, 1, 1, 1], dtype=bool),
    }
    histogram = area_histogram(areas, hit, bins=4)
    assert histogram.edges == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert histogram.images.tolist() == [2, 1, 2, 1], "the largest area is in the last bin"
    assert {name: n.tolist() for name, n in histogram.localized.items()} == {
        "default": [1, 0, 1, 0],
        "transformed": [2, 0, 2, 1],
    }


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=60), st.integers(0, 2**32))
def test_area_histogram_loses_no_image(areas, seed):
    areas = np.array(areas)
    right = np.random.default_rng(seed).random(len(areas)) < 0.5
    histogram = area_histogram(areas, {"right": right, "wrong": ~right})
    assert len(histogram.edges) == 11 and len(histogram.images) == 10
    assert histogram.images.sum() == len(areas)
    both = histogram.localized["right"] + histogram.localized["wrong"]
    assert both.tolist() == histogram.images.tolist()


def wilson(right: int, n: int) -> tuple[float, float]:
    z, p = 1.959963984540054, right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return middle - reach, middle + reach


@pytest.mark.parametrize(("right", "n"), [(7, 10), (588, 1000), (0, 20), (20, 20)])
def test_image_interval_is_wilsons(right, n):
    interval = image_interval(np.arange(n) < right)
    low, high = wilson(right, n)
    assert interval.mean == pytest.approx(right / n)
    assert interval.low == pytest.approx(low, abs=1e-9)
    assert interval.high == pytest.approx(high, abs=1e-9)


def test_image_interval_of_ten_images():
    """7 of 10: the textbook's 39.7 % to 89.2 %."""
    interval = image_interval(np.array([True] * 7 + [False] * 3))
    assert interval.low == pytest.approx(0.3968, abs=1e-4)
    assert interval.high == pytest.approx(0.8922, abs=1e-4)


def test_mean_interval_of_a_fraction_is_near_wilsons():
    right = np.arange(1000) % 10 < 3
    ours, wilsons = mean_interval(right), image_interval(right)
    assert ours.mean == wilsons.mean == pytest.approx(0.3)
    assert ours == pytest.approx(wilsons, abs=0.004)


def test_mean_interval_without_variance():
    assert mean_interval(np.zeros(7)) == (0, 0, 0)
    assert mean_interval([0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_share_of_none_or_all_is_still_uncertain(seeds):
    """Wilson's, whose end is z² / (n + z²) away; agreeing seeds tell no more of the images."""
    end = 1.959964**2 / (240 + 1.959964**2)
    assert mean_interval(np.zeros((seeds, 240), bool)) == pytest.approx((0, 0, end), abs=1e-6)
    assert mean_interval(np.ones((seeds, 240), bool)) == pytest.approx((1, 1 - end, 1), abs=1e-6)


@given(
    right=arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 30))),
    rival=st.integers(0, 2**32 - 1),
)
def test_mean_interval_stays_within_what_is_possible(right, rival):
    share = mean_interval(right)
    assert 0 <= share.low <= share.mean <= share.high <= 1
    assert share.low < share.high
    other = np.random.default_rng(rival).random(right.shape) < 0.5
    difference = mean_interval(right.astype(int) - other)
    assert -1 <= difference.low <= difference.mean <= difference.high <= 1


def test_mean_interval_takes_images_together():
    """Two seeds that say the same of every image tell no more of the images than one."""
    values = np.random.default_rng(0).normal(size=(1, 400))
    twice = mean_interval(np.concatenate([values, values]))
    assert twice == pytest.approx(mean_interval(values), abs=1e-6)


def test_mean_interval_of_seeds_that_disagree_is_students():
    """Three seeds: t of two degrees of freedom is 4.3027."""
    seeds = np.array([[0.70], [0.74], [0.72]])
    mean, low, high = mean_interval(np.repeat(seeds, 100, axis=1))
    expected = 4.3026527 * 0.02 / math.sqrt(3)
    assert [high - mean, mean - low] == pytest.approx([expected] * 2, abs=1e-7)


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.04])
def test_mean_interval_covers_what_it_says(spread):
    """Three trainings that share 400 images: 95 of 100 intervals hold the true mean, 0."""
    random = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        values = random.normal(0, 0.5, 400) + random.normal(0, 0.3, (3, 400))
        interval = mean_interval(values + random.normal(0, spread, (3, 1)))
        covered.append(interval.low <= 0 <= interval.high)
    assert 0.92 < np.mean(covered) < 0.98


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_mean_interval_of_a_share_covers_what_it_says(share, spread):
    """Three trainings, apart by `spread` logits and more, that share 400 images."""
    random = np.random.default_rng(0)
    covered = []
    for _ in range(600):
        hard = stats.norm.ppf(share) * math.sqrt(2) + random.normal(size=400)
        hard = hard + spread * random.normal(size=(3, 1)) + random.normal(size=(3, 400))
        interval = mean_interval(hard > 0)
        covered.append(interval.low <= share <= interval.high)
    assert np.mean(covered) > 0.92
