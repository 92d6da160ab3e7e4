"""The indicators of tables whose answers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cstn_lib.evaluation.boxes import BoxList
from cstn_lib.evaluation.indicators import indicators, matched_objects, thirds


def table_of(boxes: np.ndarray, objects: np.ndarray, levels: np.ndarray) -> pd.DataFrame:
    """A network whose winner has p(l, s | c) = 0.5 and these boxes; its windows do not help."""
    images = len(boxes)
    return pd.DataFrame(
        {
            "gt_boxes": list(objects),
            "true_prob": np.full(images, 0.8),
            "true_score": [np.log([0.4])] * images,
            "true_locations": np.full(images, 3.0),
            "true_level": [[level] for level in levels],
            "true_location": [np.array([0, 0])] * images,
            "true_box": list(boxes),
            "true_default_box": [np.array([0.0, 0.0, 0.01, 0.01])] * images,
        }
    )


@pytest.fixture
def objects() -> np.ndarray:
    rng = np.random.default_rng(0)
    sides = rng.uniform(0.1, 0.5, (30, 2))
    corners = rng.uniform(0, 0.5, (30, 2))
    return np.concatenate([corners, corners + sides], axis=1)


def test_boxes_that_are_the_objects(objects: np.ndarray):
    area = (objects[:, 2] - objects[:, 0]) * (objects[:, 3] - objects[:, 1])
    levels = np.where(area <= np.sort(area)[9], 4, 5)  # the smallest third
    found = indicators(table_of(objects, objects, levels))
    assert found["winner's p"] == pytest.approx(0.5)
    assert found["locations"] == 3
    assert found["transformed box"] == 1 and found["default box"] == 0
    for name in ("log area", "log aspect", "centre x", "centre y"):
        assert found[f"corr. of {name}"] == pytest.approx(1)
    wins = [found[f"level 4 wins, {size}"] for size in ("small", "middle", "large")]
    assert wins == [1, 0, 0]
    assert found["collapsed"] == 0
    assert found["mean box"] < 1  # a location's habit does not find objects of all places


def test_boxes_that_collapsed_into_their_objects(objects: np.ndarray):
    centre, half = (objects[:, :2] + objects[:, 2:]) / 2, 0.1 * (objects[:, 2:] - objects[:, :2])
    boxes = np.concatenate([centre - half, centre + half], axis=1)  # a twenty-fifth of the area
    found = indicators(table_of(boxes, objects, np.full(30, 5)))
    assert found["collapsed"] == 1 and found["transformed box"] == 0
    assert found["square at its centre"] > 0
    assert found["corr. of centre x"] == pytest.approx(1)


def test_boxes_that_never_move_correlate_with_nothing(objects: np.ndarray):
    boxes = np.tile([0.2, 0.2, 0.8, 0.8], (30, 1))
    found = indicators(table_of(boxes, objects, np.full(30, 5)))
    assert [found[f"corr. of {name}"] for name in ("log area", "centre y")] == [0, 0]
    assert found["mean box"] == found["transformed box"]


def test_matched_objects_takes_the_best_overlap_then_the_largest():
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.8, 0.8, 0.9, 0.9]])
    first = np.array([[0.4, 0.4, 1.0, 1.0], [0.0, 0.0, 0.4, 0.4]])
    second = np.array([[0.0, 0.0, 0.1, 0.1], [0.0, 0.0, 0.3, 0.3]])  # neither overlaps
    found = matched_objects(boxes, BoxList.of([first, second]))
    assert found.tolist() == [first[1].tolist(), second[1].tolist()]


def test_thirds_are_ordered_and_whole():
    areas = np.random.default_rng(3).uniform(0, 1, 11)
    parts = thirds(areas)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(11))
    assert areas[parts["small"]].max() <= areas[parts["middle"]].min()
    assert areas[parts["middle"]].max() <= areas[parts["large"]].min()
