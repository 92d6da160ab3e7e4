"""What differs between two methods: cases made by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cstn_lib.evaluation.boxes import BoxList, best_iou
from cstn_lib.evaluation.metrics import Interval, ground_truth, mean_interval
from cstn_lib.evaluation.predictions import array
from cstn_lib.reproduction.comparison import (
    gt_known_boxes,
    hit_difference,
    hits_by_area,
    hits_on_test,
    kinds_of_misses,
    motion,
    object_areas,
    settings,
    transform_gain,
)
from cstn_lib.reproduction.runs import Run

WriteRun = Callable[..., Run]


def paired_difference(ours: list[Run], theirs: list[Run], metric: str) -> Interval:
    return mean_interval(hit_difference(ours, theirs, metric))


OBJECT = [0.25, 0.25, 0.75, 0.75]


def squares(*sides_and_centres: tuple[float, float, float]) -> np.ndarray:
    """Boxes (n, 4) of a side and a centre each."""
    return np.array([[x - s / 2, y - s / 2, x + s / 2, y + s / 2] for s, x, y in sides_and_centres])


def test_score_maps_are_judged_at_the_threshold_of_val(write_run: WriteRun):
    run = write_run("cam", [("+", [0.5]), ("+", [0.2]), ("-", [0.5])], [("+", [0.5])])
    assert hits_on_test(run)["gt_known_loc"].tolist() == [True, False, True]
    assert hits_on_test(run)["top1_loc"].tolist() == [True, False, False]
    assert (gt_known_boxes(run) == OBJECT).all(axis=1).tolist() == [True, False, True]


def test_votes_are_judged_by_their_best_box(write_run: WriteRun):
    run = write_run("cstn", ["+xr", "+rx"])
    assert hits_on_test(run)["gt_known_loc"].tolist() == [False, True]
    assert hits_on_test(run)["top5_box_loc"].tolist() == [True, True]
    assert (gt_known_boxes(run) == OBJECT).all(axis=1).tolist() == [False, True]


def test_paired_difference(write_run: WriteRun):
    ours = write_run("cstn", ["+r"] * 60 + ["+x"] * 40)
    theirs = write_run("cam", [("+", [0.5])] * 40 + [("+", [])] * 60, [("+", [0.5])])
    found = paired_difference([ours], [theirs], "gt_known_loc")
    assert found.mean == pytest.approx(0.2)
    # 20 images that one has and the other has not: a standard error of sqrt(0.2 * 0.8 / 100)
    assert (found.low, found.high) == pytest.approx(
        (0.2 - 1.96 * 0.04, 0.2 + 1.96 * 0.04), abs=0.02
    )
    assert paired_difference([ours], [ours], "top1_loc") == (0, 0, 0)


def test_paired_difference_is_not_that_of_two_counts(write_run: WriteRun):
    """The same number is right of both, on other images: no difference, but not a sure one."""
    one = write_run("cstn", ["+r", "+x"] * 50)
    other = write_run("plain", ["+x", "+r"] * 50)
    found = paired_difference([one], [other], "gt_known_loc")
    assert found.mean == 0
    assert found.high == pytest.approx(0.196, abs=0.03)


def test_paired_difference_over_seeds(write_run: WriteRun):
    ours = [write_run("cstn", ["+r"] * 4, seed=seed) for seed in (0, 1)]
    theirs = [write_run("plain", ["+r"] * 4), write_run("plain", ["+x"] * 4, seed=1)]
    found = paired_difference(ours, theirs, "top1_loc")
    assert found == (0.5, -1, 1), "Student's of two seeds, as all images say the same, and no more"


def test_as_many_seeds_are_paired_as_both_have(write_run: WriteRun):
    """The first with the first: what one has more is left out."""
    ours = [
        write_run("cstn", images, seed=i) for i, images in enumerate((["+r", "+x"], ["+r"] * 2))
    ]
    theirs = [write_run("plain", ["+x", "+r"])]
    assert hit_difference(ours, theirs, "top1_loc").tolist() == [[1, -1]]
    assert hit_difference(theirs, ours, "top1_loc").tolist() == [[-1, 1]]
    assert hit_difference(ours, theirs * 2, "top1_loc").tolist() == [[1, -1], [1, 0]]
    found = paired_difference(ours, theirs, "top1_loc")
    assert found == paired_difference(ours[:1], theirs, "top1_loc")


def test_transform_gain(finished_runs: list[Run]):
    runs = finished_runs[:2]
    gain = transform_gain(runs, "gt_known_loc")
    assert gain.shape == (2, 15)
    for run, row in zip(runs, gain, strict=True):
        table = run.predictions()
        truth = ground_truth(table)
        moved, fixed = (
            best_iou(array(table, f"true_{kind}")[:, :1], truth)[:, 0] >= 0.5
            for kind in ("box", "default_box")
        )
        assert (row == moved.astype(int) - fixed.astype(int)).all()


def test_motion(finished_runs: list[Run]):
    run = finished_runs[0]
    found = motion(run)
    for i, line in run.predictions().iterrows():
        a, b, x, c, d, y = line["true_theta"][:6]
        distance = np.sqrt((a - 1) ** 2 + b**2 + x**2 + c**2 + (d - 1) ** 2 + y**2)
        assert found.loc[i, "distance"] == pytest.approx(distance, abs=1e-5)
        assert found.loc[i, "area factor"] == pytest.approx(abs(a * d - b * c), abs=1e-5)
        assert found.loc[i, "shift"] == pytest.approx(np.hypot(x, y), abs=1e-5)


def test_settings(write_run: WriteRun):
    one, other = (settings(write_run(name, ["+r"])) for name in ("adl", "stn"))
    assert one["data.name"] == "birds-cub" and one["training.epochs"] == "2"
    differing = one.index[one != other].tolist()
    own = ["model.first_frame", "model.head"]
    own += [f"training.{name}" for name in ("warmup_epochs", "lr", "lambda_theta")]
    assert differing == ["name", *own]


def test_object_areas():
    boxes = squares((0.5, 0.5, 0.5), (0.2, 0.1, 0.1), (0.4, 0.5, 0.5))
    assert object_areas(BoxList(boxes, np.array([0, 1, 1, 3]))) == pytest.approx([0.25, 0, 0.16])
    assert object_areas(BoxList(boxes[:0], np.array([0, 0]))).tolist() == [0]


def test_hits_by_area():
    areas = np.array([0.4, 0.1, 0.3, 0.2, 0.5])
    hit = {"one": np.array([1, 0, 1, 0, 1], bool), "other": np.array([0, 1, 0, 0, 0], bool)}
    table = hits_by_area(areas, hit, groups=2)
    assert table["smallest"].tolist() == [0.1, 0.4]
    assert table["median"].tolist() == pytest.approx([0.2, 0.45])
    assert table["largest"].tolist() == [0.3, 0.5]
    assert table["images"].tolist() == [3, 2]
    assert table["one"].tolist() == pytest.approx([1 / 3, 1])
    assert table["other"].tolist() == pytest.approx([1 / 3, 0])


def test_kinds_of_misses():
    truth = BoxList.of([np.array(OBJECT)] * 6)
    boxes = squares(
        (0.5, 0.5, 0.5),
        (0.5, 0.8, 0.5),
        (0.5, 0.1, 0.1),  # touches nothing, and is right when moved
        (0.8, 0.5, 0.5),
        (0.3, 0.5, 0.5),
        (0.3, 0.9, 0.9),
    )
    kinds = ["right", "shifted", "shifted", "too large", "too small", "too small"]
    assert kinds_of_misses(boxes, truth).tolist() == kinds


def test_kinds_of_misses_with_several_objects():
    """The object that is overlapped most counts; without any overlap the largest."""
    objects = squares((0.2, 0.2, 0.2), (0.6, 0.65, 0.65)).ravel()
    truth = BoxList.of([objects] * 4)
    boxes = squares((0.2, 0.25, 0.25), (0.5, 0.2, 0.2), (0.1, 0.95, 0.05), (0.6, 0.65, 0.65))
    assert kinds_of_misses(boxes, truth).tolist() == ["shifted", "too large", "too small", "right"]
