"""The controls against plain loops and tables made by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cstn_lib.evaluation.boxes import BoxList, best_iou, paired_iou
from cstn_lib.evaluation.controls import (
    best_centred_square,
    centred_square,
    five_fixed_boxes,
    fixed_hits,
    greedy_cover,
    mean_boxes,
    squares_at_centres,
)
from cstn_lib.evaluation.metrics import IOU_THRESHOLD


def loop_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_centred_square():
    assert centred_square(0.5).tolist() == [0.25, 0.25, 0.75, 0.75]
    assert centred_square(1.0).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("side", [0.25, 0.5, 0.8])
def test_best_square_for_one_centred_object(side):
    """Sides within sqrt(2) of the object's hit it; the middle one of them is chosen."""
    best = best_centred_square(BoxList.of([centred_square(side)]))
    good = [
        k / 80
        for k in range(1, 81)
        if loop_iou(centred_square(k / 80), centred_square(side)) >= IOU_THRESHOLD
    ]
    assert best == good[len(good) // 2]
    assert min(good) < side < max(good)


def test_best_square_serves_the_majority():
    small, large = centred_square(0.2), centred_square(0.9)
    assert 0.2 / math.sqrt(2) <= best_centred_square(BoxList.of([small, small, large])) <= 0.3
    assert 0.9 / math.sqrt(2) <= best_centred_square(BoxList.of([small, large, large]))


def test_best_square_counts_images_not_boxes():
    small, large = centred_square(0.2), centred_square(0.9)
    truth = BoxList.of([np.tile(small, 3), large, large])
    assert best_centred_square(truth) > 0.6


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 8))))
def test_greedy_cover_adds_the_most(hit):
    covered = set()
    for column in greedy_cover(hit, count=3):
        gains = [len(set(np.flatnonzero(hit[:, c])) - covered) for c in range(hit.shape[1])]
        assert gains[column] == max(gains)
        covered |= set(np.flatnonzero(hit[:, column]))


def test_five_boxes_beat_one_square():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1, (200, 2, 2)), axis=1).reshape(200, 4)
    truth = BoxList.of(list(corners))
    boxes = five_fixed_boxes(truth)
    assert boxes.shape == (5, 4) and boxes.min() >= 0 and boxes.max() <= 1
    found = fixed_hits(boxes, truth)
    loop = [any(loop_iou(box, gt) >= IOU_THRESHOLD for box in boxes) for gt in corners]
    assert found.tolist() == loop
    square = centred_square(best_centred_square(truth))
    assert found.mean() > fixed_hits(square[None], truth).mean()


def votes(locations: list[list[tuple[int, int, int]]], boxes: np.ndarray) -> pd.DataFrame:
    """A table of images whose best locations are (level, row, column)."""
    return pd.DataFrame(
        {
            "true_level": [[cell[0] for cell in image] for image in locations],
            "true_location": [np.ravel([cell[1:] for cell in image]) for image in locations],
            "true_box": list(boxes.reshape(len(locations), -1)),
        }
    )


def test_mean_boxes_are_those_of_the_other_half():
    here, there = (4, 0, 1), (5, 2, 2)
    boxes = np.random.default_rng(1).uniform(0, 1, (6, 1, 4))
    table = votes([[here], [here], [there], [here], [here], [there]], boxes)
    found, flat = mean_boxes(table), boxes[:, 0]
    assert found[0] == pytest.approx(flat[[1, 3]].mean(axis=0))  # the odd images that have it
    assert found[1] == pytest.approx(flat[[0, 4]].mean(axis=0))
    assert found[2] == pytest.approx(flat[5])


def test_a_location_that_nobody_else_has_gets_its_levels_mean():
    boxes = np.random.default_rng(2).uniform(0, 1, (4, 1, 4))
    table = votes([[(4, 0, 0)], [(4, 1, 1)], [(4, 0, 0)], [(5, 0, 0)]], boxes)
    found, flat = mean_boxes(table), boxes[:, 0]
    assert found[0] == pytest.approx(flat[1])
    assert found[3] == pytest.approx(flat[[0, 2]].mean(axis=0))  # no other has the level either


def test_squares_at_centres_keep_the_centres_and_choose_one_side():
    centres = np.array([[0.4, 0.5], [0.6, 0.5], [0.5, 0.4]])
    boxes = np.concatenate([centres - 0.05, centres + 0.05], axis=1)
    objects = np.concatenate([centres - 0.2, centres + 0.2], axis=1)
    squares = squares_at_centres(boxes, BoxList.of(list(objects)))
    assert (squares[:, :2] + squares[:, 2:]) / 2 == pytest.approx(centres)
    sides = squares[:, 2:] - squares[:, :2]
    assert sides == pytest.approx(np.full((3, 2), sides[0, 0]))
    assert (paired_iou(squares, objects) >= IOU_THRESHOLD).all()
    assert not (best_iou(boxes[:, None], BoxList.of(list(objects))) >= IOU_THRESHOLD).any()
