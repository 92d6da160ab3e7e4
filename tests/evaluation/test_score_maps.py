"""Boxes from score maps, against a slow flood fill that shares no code, and cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cstn_lib.evaluation.boxes import BoxList
from cstn_lib.evaluation.predictions import describe, judge
from cstn_lib.evaluation.score_maps import (
    CAM_THRESHOLD,
    CHUNK,
    THRESHOLDS,
    boxes_at,
    components,
    resized,
)
from cstn_lib.outputs import ScoreMapOutput, normalized

Pixel = tuple[int, int]


# The slow implementation


def flood(active: list[list[bool]]) -> list[list[Pixel]]:
    """The 8-connected components of a plane, in scan order of their first pixels."""
    height, width = len(active), len(active[0])
    seen: set[Pixel] = set()
    found = []
    for y in range(height):
        for x in range(width):
            if not active[y][x] or (y, x) in seen:
                continue
            seen.add((y, x))
            component, waiting = [], [(y, x)]
            while waiting:
                row, column = waiting.pop()
                component.append((row, column))
                for down in (-1, 0, 1):
                    for right in (-1, 0, 1):
                        near = (row + down, column + right)
                        inside = 0 <= near[0] < height and 0 <= near[1] < width
                        if inside and active[near[0]][near[1]] and near not in seen:
                            seen.add(near)
                            waiting.append(near)
            found.append(component)
    return found


def tight_box(component: list[Pixel], height: int, width: int) -> list[float]:
    rows, columns = [y for y, _ in component], [x for _, x in component]
    return [
        min(columns) / width,
        min(rows) / height,
        (max(columns) + 1) / width,
        (max(rows) + 1) / height,
    ]


def largest(found: list[list[Pixel]]) -> list[Pixel]:
    best: list[Pixel] = []
    for component in found:
        if len(component) > len(best):
            best = component
    return best


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


def slow_boxes_at(
    map_: np.ndarray, thresholds: tuple[float, ...], truth: np.ndarray
) -> tuple[list[list[float]], list[float]]:
    """`boxes_at` for one map."""
    height, width = map_.shape
    boxes, anywhere = [], []
    for threshold in thresholds:
        limit = np.float32(threshold)
        found = flood([[bool(value >= limit) for value in row] for row in map_])
        best = largest(found)
        boxes.append(tight_box(best, height, width) if best else [0.0] * 4)
        reached = [
            overlap(tight_box(component, height, width), list(gt))
            for component in found
            for gt in truth
        ]
        anywhere.append(max(reached, default=0.0))
    return boxes, anywhere


# Against it


shapes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))


@given(hnp.arrays(bool, shapes))
@settings(max_examples=300)
def test_components_against_a_flood_fill(active):
    planes, height, width = active.shape
    found = components(active)
    assert np.all(np.diff(found.plane) >= 0)
    for plane in range(planes):
        expected = flood(active[plane].tolist())
        expected.sort(key=lambda component: -len(component))  # stable: equal ones stay in order
        own = found.plane == plane
        assert found.pixels[own].tolist() == [len(component) for component in expected]
        boxes = [tight_box(component, height, width) for component in expected]
        assert np.allclose(found.boxes[own], np.reshape(boxes, (-1, 4)))


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 8), st.integers(1, 3))
@settings(max_examples=100)
def test_boxes_at_against_a_flood_fill(seed, height, width, boxes_an_image):
    rng = np.random.default_rng(seed)
    # few different values, so that many pixels lie on a threshold
    maps = (rng.integers(0, 11, (3, height, width)) / 10).astype(np.float32)
    truth = [
        np.sort(rng.random((n, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
        for n in (boxes_an_image, 0, 1)
    ]
    thresholds = (0.0, 0.2, 0.5, 0.9)
    boxes, anywhere = boxes_at(maps, thresholds, BoxList.of(truth))
    assert boxes.dtype == np.float32
    for i in range(3):
        slow, reached = slow_boxes_at(maps[i], thresholds, truth[i])
        assert np.allclose(boxes[i], slow)
        assert np.allclose(anywhere[i], reached, atol=1e-6)


def test_more_images_than_a_chunk():
    rng = np.random.default_rng(0)
    count = 2 * CHUNK + 3
    maps = rng.random((count, 6, 6), dtype=np.float32)
    truth = BoxList.of([np.sort(rng.random((1, 2, 2)), axis=1).reshape(-1, 4)] * count)
    together = boxes_at(maps, THRESHOLDS, truth)
    for i in range(count):
        alone = boxes_at(maps[i : i + 1], THRESHOLDS, truth.take(np.array([i])))
        assert np.array_equal(together[0][i], alone[0][0])
        assert np.array_equal(together[1][i], alone[1][0])


# By hand


def plane(*rows: str) -> np.ndarray:
    return np.array([[[pixel == "#" for pixel in row] for row in rows]])


CASES = {
    "nothing": (plane("....", "...."), []),
    "everything": (plane("####", "####"), [(8, [0, 0, 1, 1])]),
    "one pixel in a corner": (plane("...#", "...."), [(1, [0.75, 0, 1, 0.5])]),
    "touching at a corner is connected": (plane("#...", ".#.."), [(2, [0, 0, 0.5, 1])]),
    "two equal: the first in scan order first": (
        plane("..##", "#...", "#..."),
        [(2, [0.5, 0, 1, 1 / 3]), (2, [0, 1 / 3, 0.25, 1])],
    ),
    "the larger one comes first": (
        plane("#..#", "...#"),
        [(2, [0.75, 0, 1, 1]), (1, [0, 0, 0.25, 0.5])],
    ),
    "along the border": (plane("####", "#..#", "####"), [(10, [0, 0, 1, 1])]),
    "from edge to edge, not around it": (
        plane("...#", "#..."),
        [(1, [0.75, 0, 1, 0.5]), (1, [0, 0.5, 0.25, 1])],
    ),
    "a bend": (plane("#.#", "#.#", "###"), [(7, [0, 0, 1, 1])]),
}


@pytest.mark.parametrize("name", CASES)
def test_components_by_hand(name):
    active, expected = CASES[name]
    found = components(active)
    assert found.plane.tolist() == [0] * len(expected)
    assert found.pixels.tolist() == [pixels for pixels, _ in expected]
    assert np.allclose(found.boxes, np.reshape([box for _, box in expected], (-1, 4)))


def test_planes_do_not_touch():
    active = np.concatenate([plane("..", "##"), plane("##", ".."), plane("..", "..")])
    found = components(active)
    assert found.plane.tolist() == [0, 1]
    assert found.boxes.tolist() == [[0, 0.5, 1, 1], [0, 0, 1, 0.5]]


WHOLE = [0.0, 0.0, 1.0, 1.0]
EMPTY = [0.0, 0.0, 0.0, 0.0]


def test_flat_map():
    """Zeros: the whole image at threshold 0, nothing above."""
    flat = normalized(torch.full((1, 3, 3), 7.0))
    assert flat.tolist() == torch.zeros(1, 3, 3).tolist()
    boxes, anywhere = boxes_at(flat.numpy(), THRESHOLDS, BoxList.of([np.array([WHOLE])]))
    assert boxes[0, 0].tolist() == WHOLE and anywhere[0, 0] == 1
    assert boxes[0, 1:].tolist() == [EMPTY] * 49
    assert (anywhere[0, 1:] == 0).all()


def test_several_ground_truth_boxes():
    """The largest component misses both; a smaller one is the second of them."""
    map_ = plane("###.", "....", "...#").astype(np.float32)
    truth = np.array([[0, 0.5, 0.25, 1], [0.75, 2 / 3, 1, 1]])
    boxes, anywhere = boxes_at(map_, (0.5,), BoxList.of([truth]))
    assert np.allclose(boxes, [[[0, 0, 0.75, 1 / 3]]])
    assert anywhere == pytest.approx(np.array([[1.0]]), abs=1e-6)


def test_image_without_ground_truth():
    map_ = plane("##", "..").astype(np.float32)
    boxes, anywhere = boxes_at(map_, (0.5,), BoxList.of([np.zeros((0, 4))]))
    assert boxes.tolist() == [[[0, 0, 1, 0.5]]]
    assert anywhere.tolist() == [[0]]


def test_a_pixel_on_the_threshold_is_active():
    map_ = np.array([[[0.2, 0.19, 1.0]]], dtype=np.float32)
    boxes, _ = boxes_at(map_, (CAM_THRESHOLD,), BoxList.of([np.zeros((0, 4))]))
    assert np.allclose(boxes, [[[0, 0, 1 / 3, 1]]]), "two equal ones: the first in scan order"


def test_thresholds():
    assert THRESHOLDS[0] == 0 and THRESHOLDS[-1] == 0.98 and len(THRESHOLDS) == 50
    assert THRESHOLDS[10] == CAM_THRESHOLD


# Maps


@given(hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-5, 5, width=32)))
def test_normalized_against_a_loop(maps):
    ours = normalized(torch.from_numpy(maps)).numpy()
    for map_, result in zip(maps, ours, strict=True):
        low, high = map_.min(), map_.max()
        expected = (map_ - low) / (high - low) if high > low else np.zeros_like(map_)
        assert np.allclose(result, expected, atol=1e-5)
        assert result.min() == 0
        assert result.max() in (0, 1)


@pytest.mark.parametrize("cells, side", [(5, 40), (10, 80), (7, 224)])
def test_a_cell_is_drawn_in_its_share_of_the_image(cells, side):
    for row, column in ((1, 2), (cells - 2, 1)):
        maps = torch.zeros(1, cells, cells)
        maps[0, row, column] = 1
        drawn = resized(maps, (side, side))[0]
        middle = (drawn > drawn.max() - 1e-5).nonzero().float().mean(
            0
        ) + 0.5  # of the peak, in pixels
        stride = side / cells
        assert middle.tolist() == [(row + 0.5) * stride, (column + 0.5) * stride]


def test_a_map_of_the_images_size_stays_as_it_is():
    maps = torch.rand(2, 7, 5)
    assert torch.equal(resized(maps, (7, 5)), maps)
    assert torch.allclose(resized(maps[:, :1, :1], (4, 6)), maps[:, :1, :1])


def test_resized_against_a_loop():
    """Bilinear between the middles of cells; beyond the outermost their values are held."""
    maps = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0))
    ours = resized(maps, (12, 6))
    assert ours.shape == (2, 12, 6)
    for y in range(12):
        for x in range(6):
            row, column = ((y + 0.5) * 3 / 12 - 0.5, (x + 0.5) * 2 / 6 - 0.5)
            row, column = min(max(row, 0), 2), min(max(column, 0), 1)
            top, left = min(int(row), 1), min(int(column), 0)
            down, right = row - top, column - left
            expected = (
                maps[:, top, left] * (1 - down) * (1 - right)
                + maps[:, top, left + 1] * (1 - down) * right
                + maps[:, top + 1, left] * down * (1 - right)
                + maps[:, top + 1, left + 1] * down * right
            )
            assert torch.allclose(ours[:, y, x], expected, atol=1e-6)


# Columns of the predictions table


def test_columns():
    generator = torch.Generator().manual_seed(1)
    logits, maps = torch.randn(3, 5, generator=generator), torch.rand(3, 4, 4, generator=generator)
    labels = torch.tensor([0, 4, 2])
    of_class = torch.zeros(3, 5, 4, 4)
    of_class[torch.arange(3), labels] = maps
    output = ScoreMapOutput(logits.bfloat16(), of_class.bfloat16())
    described = describe(output, labels)
    columns = {name: value.numpy() for name, value in described.items()}
    probability = logits.bfloat16().float().softmax(1)
    assert columns["predicted"].tolist() == probability.argmax(1).tolist()
    assert np.allclose(columns["predicted_prob"], probability.amax(1))
    assert np.allclose(columns["true_prob"], probability[torch.arange(3), labels])
    truth = BoxList.of([np.array([[0.1, 0.1, 0.6, 0.7]])] * 3)
    swept = judge(columns, truth, (8, 8), sweep=True)
    fixed = judge(columns, truth, (8, 8), sweep=False)
    assert "score_map" in columns and "score_map" not in swept, "the argument is left alone"
    assert swept["threshold_boxes"].shape == (3, 200)
    assert swept["threshold_any_iou"].shape == (3, 50)
    assert set(swept) - set(fixed) == {"threshold_boxes", "threshold_any_iou"}
    for name, value in fixed.items():
        assert np.array_equal(value, swept[name]), name
    assert np.array_equal(swept["true_box"], swept["threshold_boxes"].reshape(3, 50, 4)[:, 10])
    map_ = resized(normalized(maps[:1].bfloat16().float()), (8, 8))[0].numpy()
    boxes, anywhere = slow_boxes_at(map_, THRESHOLDS, truth.boxes[:1])
    assert np.allclose(swept["threshold_boxes"][0], np.ravel(boxes))
    assert np.allclose(swept["threshold_any_iou"][0], anywhere, atol=1e-6)
