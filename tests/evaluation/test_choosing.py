"""Choosers: each against a plain loop over images, and what holds whatever the votes are."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cstn_lib.evaluation import choosing
from cstn_lib.evaluation.choosing import CHOOSERS

Box = list[float]


def make_votes(images: int, locations: int, seed: int) -> tuple[Tensor, Tensor]:
    """log p and boxes of every size, some of them cut off by the image."""
    random = torch.Generator().manual_seed(seed)
    centre = torch.rand(images, locations, 2, generator=random, dtype=torch.float64)
    half = 0.02 + 0.4 * torch.rand(images, locations, 2, generator=random, dtype=torch.float64)
    scores = 4 * torch.randn(images, locations, generator=random, dtype=torch.float64)
    boxes = torch.cat([centre - half, centre + half], dim=2).clamp(0, 1)
    return scores.log_softmax(1), boxes


# One image at a time, in plain numbers


def iou(a: Box, b: Box) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return wide * high / (areas - wide * high)


def tempered(log_p: list[float]) -> list[float]:
    powers = [math.exp(value) ** 0.5 for value in log_p]
    return [power / sum(powers) for power in powers]


def mean(weights: list[float], boxes: list[Box]) -> Box:
    total = sum(weights)
    pairs = list(zip(weights, boxes, strict=True))
    return [sum(w * box[side] for w, box in pairs) / total for side in range(4)]


def most_probable(log_p: list[float], boxes: list[Box]) -> Box:
    return boxes[log_p.index(max(log_p))]


def mean_of_all(log_p: list[float], boxes: list[Box]) -> Box:
    return mean(tempered(log_p), boxes)


def best_expected(log_p: list[float], boxes: list[Box]) -> Box:
    weights = tempered(log_p)

    def expected(box: Box) -> float:
        return sum(w * iou(box, other) for w, other in zip(weights, boxes, strict=True))

    return max(boxes, key=expected)


def mean_around(log_p: list[float], boxes: list[Box]) -> Box:
    middle = most_probable(log_p, boxes)
    pairs = zip(tempered(log_p), boxes, strict=True)
    return mean(*zip(*[(w, box) for w, box in pairs if iou(box, middle) >= 0.3], strict=True))


def half_covered(log_p: list[float], boxes: list[Box]) -> Box:
    """Point by point: one within each rectangle that edges of boxes leave."""
    weights = tempered(log_p)
    xs, ys = (sorted({box[end] for box in boxes for end in (k, k + 2)}) for k in (0, 1))
    cells = {}
    for left, right in pairwise(xs):
        for top, bottom in pairwise(ys):
            x, y = (left + right) / 2, (top + bottom) / 2
            cells[left, top, right, bottom] = sum(
                w
                for w, box in zip(weights, boxes, strict=True)
                if box[0] < x < box[2] and box[1] < y < box[3]
            )
    active = [cell for cell, covered in cells.items() if covered >= max(cells.values()) / 2]
    lowest = [min(cell[k] for cell in active) for k in (0, 1)]
    return lowest + [max(cell[k] for cell in active) for k in (2, 3)]


LOOPS = {
    "MAP": most_probable,
    "tempered mean": mean_of_all,
    "highest expected IoU": best_expected,
    "fused": mean_around,
    "coverage": half_covered,
}
every_chooser = pytest.mark.parametrize("name", CHOOSERS)
some_votes = st.builds(make_votes, st.integers(1, 3), st.integers(1, 12), st.integers(0, 10_000))


@every_chooser
@pytest.mark.parametrize("locations", [1, 2, 9, 40])
def test_against_a_loop_over_images(name, locations):
    log_p, boxes = make_votes(3, locations, seed=locations)
    found = CHOOSERS[name](log_p, boxes)
    assert found.shape == (3, 4)
    for image in range(3):
        expected = LOOPS[name](log_p[image].tolist(), boxes[image].tolist())
        assert found[image].tolist() == pytest.approx(expected, abs=1e-9)


def test_the_choosers_differ():
    """Or one loop would do for all of them."""
    log_p, boxes = make_votes(20, 40, seed=1)
    found = torch.stack([chooser(log_p, boxes) for chooser in CHOOSERS.values()])
    same = (found[:, None] - found).abs().amax(dim=3) < 1e-6  # (choosers, choosers, images)
    assert not (same.all(dim=2) & ~torch.eye(len(found), dtype=torch.bool)).any()


def test_the_likeliest_box_need_not_have_the_highest_expected_iou():
    """One vote of .4 for a part, three of .2 around the object."""
    log_p = torch.tensor([[0.4, 0.2, 0.2, 0.2]]).log()
    around = [[0.2, 0.2, 0.8, 0.8], [0.22, 0.2, 0.8, 0.8], [0.2, 0.24, 0.8, 0.8]]
    boxes = torch.tensor([[[0.2, 0.2, 0.4, 0.4], *around]])
    assert torch.equal(choosing.map_box(log_p, boxes), boxes[:, 0])
    assert torch.equal(choosing.highest_expected_iou(log_p, boxes), boxes[:, 1])
    assert torch.equal(choosing.fused(log_p, boxes), boxes[:, 0]), "nothing is near it"


@every_chooser
@given(votes=some_votes, seed=st.integers(0, 100))
def test_the_order_of_locations_changes_nothing(name, votes, seed):
    log_p, boxes = votes
    order = torch.randperm(log_p.shape[1], generator=torch.Generator().manual_seed(seed))
    found = CHOOSERS[name](log_p, boxes)
    assert torch.allclose(CHOOSERS[name](log_p[:, order], boxes[:, order]), found, atol=1e-9)


@every_chooser
@given(votes=some_votes, shift=st.floats(-5, 5))
def test_raw_scores_do_as_well(name, votes, shift):
    log_p, boxes = votes
    found = CHOOSERS[name](log_p, boxes)
    assert torch.allclose(CHOOSERS[name](log_p + shift, boxes), found, atol=1e-9)


@every_chooser
@given(votes=some_votes, chosen=st.integers(0, 11))
def test_a_vote_all_on_one_box_returns_it(name, votes, chosen):
    log_p, boxes = votes
    chosen %= log_p.shape[1]
    log_p = torch.full_like(log_p, -1e9)
    log_p[:, chosen] = 0
    assert torch.allclose(CHOOSERS[name](log_p, boxes), boxes[:, chosen], atol=1e-9)
    same = boxes[:, chosen, None].expand_as(boxes)
    assert torch.allclose(CHOOSERS[name](votes[0], same), boxes[:, chosen], atol=1e-9)


@every_chooser
@given(votes=some_votes)
def test_boxes_stay_in_the_image_and_among_the_votes(name, votes):
    log_p, boxes = votes
    found = CHOOSERS[name](log_p, boxes)
    assert ((found >= boxes.amin(1) - 1e-9) & (found <= boxes.amax(1) + 1e-9)).all()
    assert (found[:, :2] <= found[:, 2:]).all()


@every_chooser
def test_boxes_without_area_are_no_trouble(name):
    boxes = torch.tensor([[[0.3, 0.3, 0.3, 0.6], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]])
    for log_p in (torch.tensor([[0.0, -1.0, -2.0]]), torch.zeros(1, 3)):
        found = CHOOSERS[name](log_p, boxes)
        assert ((found >= 0) & (found <= 1)).all()
    only = CHOOSERS[name](torch.zeros(1, 1), boxes[:, :1])
    assert torch.equal(only, boxes[:, 0])


@every_chooser
def test_no_image_is_no_box(name):
    assert CHOOSERS[name](torch.zeros(0, 9), torch.zeros(0, 9, 4)).shape == (0, 4)


def test_autocast_does_not_round_a_fused_box():
    votes, boxes = torch.randn(3, 9), torch.rand(3, 9, 4).sort(dim=2).values
    with torch.autocast("cpu", torch.bfloat16):
        inside = choosing.fused(votes, boxes)
    assert inside.dtype == torch.float32 and torch.equal(inside, choosing.fused(votes, boxes))


@pytest.mark.parametrize("name", ["highest expected IoU", "coverage"])
def test_of_many_votes_the_heaviest_count(name, monkeypatch):
    log_p, boxes = make_votes(30, 40, seed=3)
    monkeypatch.setattr(choosing, "MOST", 5)
    best = log_p.topk(5, dim=1).indices
    few = log_p.gather(1, best), boxes.gather(1, best[..., None].expand(-1, -1, 4))
    found = CHOOSERS[name](log_p, boxes)
    assert torch.equal(found, CHOOSERS[name](*few))
    monkeypatch.setattr(choosing, "MOST", 100)
    assert not torch.allclose(found, CHOOSERS[name](log_p, boxes))
