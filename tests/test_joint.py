"""Eq. 1 and its marginals against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cstn_lib.joint import (
    class_log_prob,
    joint_log_prob,
    level_log_prob,
    location_log_prob,
    locations,
    map_estimate,
    top_locations,
)

Cell = tuple[int, int, int, int]  # class, level, row, column

LEVELS = [
    [(3, 4)],
    [(4, 3), (2, 2)],
    [(1, 1)],
    [(3, 2), (2, 3), (1, 1)],
]


def make_scores(sizes: list[tuple[int, int]], batch: int = 2, classes: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(sizes))
    return [
        3 * torch.randn(batch, classes, h, w, generator=generator, dtype=torch.float64)
        for h, w in sizes
    ]


def loop_joint(scores: list[Tensor], image: int) -> dict[Cell, float]:
    """Eq. 1 as printed: exponentials over their sum, entry by entry, in the order of the maps."""
    exponentials = {}
    for c in range(scores[0].shape[1]):
        for level, score in enumerate(scores):
            for row in range(score.shape[2]):
                for column in range(score.shape[3]):
                    value = score[image, c, row, column].item()
                    exponentials[c, level, row, column] = math.exp(value)
    total = sum(exponentials.values())
    return {cell: value / total for cell, value in exponentials.items()}


def places(sizes: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(level, row, column) in the order of the location axis."""
    return [
        (level, row, column)
        for level, (h, w) in enumerate(sizes)
        for row in range(h)
        for column in range(w)
    ]


@pytest.mark.parametrize("sizes", LEVELS)
def test_joint_is_eq_1(sizes):
    scores = make_scores(sizes)
    log_joint = joint_log_prob(scores)
    assert log_joint.shape == (2, 3, sum(h * w for h, w in sizes))
    for image in range(2):
        for (c, *place), expected in loop_joint(scores, image).items():
            n = places(sizes).index(tuple(place))
            assert log_joint[image, c, n].exp().item() == pytest.approx(expected, rel=1e-12)


def test_a_single_map_is_one_level():
    (score,) = make_scores([(3, 4)])
    assert torch.equal(joint_log_prob(score), joint_log_prob([score]))


def test_classes_locations_and_levels_compete_in_one_softmax():
    """Raising one score lowers every other probability, of whatever class, location or level."""
    scores = make_scores([(2, 2), (1, 2)])
    before = joint_log_prob(scores)
    scores[1][0, 2, 0, 1] += 1  # the last location
    after = joint_log_prob(scores)
    others = torch.ones(3, 6, dtype=torch.bool)
    others[2, 5] = False
    assert (after[0][others] < before[0][others]).all()
    assert after[0, 2, 5] > before[0, 2, 5]
    assert torch.equal(after[1], before[1]), "images do not compete"


@pytest.mark.parametrize("sizes", LEVELS)
def test_locations_name_the_location_axis(sizes):
    where = locations(sizes)
    assert all(part.dtype == torch.int64 for part in where)
    assert list(zip(*(part.tolist() for part in where), strict=True)) == places(sizes)


@pytest.mark.parametrize("sizes", LEVELS)
def test_marginals(sizes):
    scores = make_scores(sizes)
    log_joint = joint_log_prob(scores)
    by_class = class_log_prob(log_joint).exp()
    by_location = location_log_prob(log_joint).exp()
    by_level = level_log_prob(log_joint, sizes).exp()
    assert by_class.shape == (2, 3)
    assert by_location.shape == (2, len(places(sizes)))
    assert by_level.shape == (2, len(sizes))
    for image in range(2):
        joint = loop_joint(scores, image)
        for c in range(3):
            expected = sum(p for cell, p in joint.items() if cell[0] == c)
            assert by_class[image, c].item() == pytest.approx(expected, rel=1e-12)
        for n, place in enumerate(places(sizes)):
            expected = sum(p for cell, p in joint.items() if cell[1:] == place)
            assert by_location[image, n].item() == pytest.approx(expected, rel=1e-12)
        for level in range(len(sizes)):
            expected = sum(p for cell, p in joint.items() if cell[1] == level)
            assert by_level[image, level].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sizes", LEVELS)
def test_map_estimate(sizes):
    scores = make_scores(sizes)
    classes, where = map_estimate(joint_log_prob(scores))
    assert classes.dtype == where.dtype == torch.int64
    for image in range(2):
        joint = loop_joint(scores, image)
        c, *place = max(joint, key=joint.get)
        assert classes[image] == c
        assert places(sizes)[where[image]] == tuple(place)


def test_map_class_may_differ_from_the_most_probable_class():
    """One tall peak of class 0 against many middling votes of class 1."""
    score = torch.zeros(1, 2, 4, 4)
    score[0, 0] = -20
    score[0, 0, 1, 2] = 1.5
    log_joint = joint_log_prob(score)
    assert map_estimate(log_joint)[0] == 0
    assert map_estimate(log_joint)[1] == 1 * 4 + 2
    assert class_log_prob(log_joint).argmax() == 1


@pytest.mark.parametrize("sizes", LEVELS)
@pytest.mark.parametrize("k", [1, 5, 100])
def test_top_locations(sizes, k):
    scores = make_scores(sizes)
    wanted = torch.tensor([2, 0])
    values, where = top_locations(joint_log_prob(scores), wanted, k)
    kept = min(k, len(places(sizes)))
    assert values.shape == where.shape == (2, kept)
    for image, c in enumerate(wanted.tolist()):
        joint = {cell[1:]: p for cell, p in loop_joint(scores, image).items() if cell[0] == c}
        best = sorted(joint, key=joint.get, reverse=True)[:kept]
        assert [places(sizes)[n] for n in where[image]] == best
        assert values[image].exp().tolist() == pytest.approx([joint[p] for p in best], rel=1e-12)


def test_top_locations_gives_one_by_default():
    log_joint = joint_log_prob(make_scores([(3, 4)]))
    values, where = top_locations(log_joint, torch.tensor([0, 1]))
    assert values.shape == where.shape == (2, 1)


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=12, max_size=12),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_extreme_scores_stay_finite(values, dtype):
    scores = torch.tensor(values, dtype=dtype, requires_grad=True)
    maps = [scores[:8].view(1, 2, 2, 2), scores[8:].view(1, 2, 2, 1)]
    log_joint = joint_log_prob(maps)
    assert log_joint.isfinite().all()
    assert log_joint.exp().sum().item() == pytest.approx(1, abs=1e-5)
    for marginal in (
        class_log_prob(log_joint),
        location_log_prob(log_joint),
        level_log_prob(log_joint, [(2, 2), (2, 1)]),
    ):
        assert marginal.isfinite().all()
        assert marginal.exp().sum().item() == pytest.approx(1, abs=1e-5)
    (gradient,) = torch.autograd.grad(class_log_prob(log_joint)[0, 0], scores)
    assert gradient.isfinite().all()


def test_the_two_ends_of_the_range_at_once():
    score = torch.full((1, 2, 2, 2), -1e4)
    score[0, 1, 0, 1] = 1e4
    log_joint = joint_log_prob(score)
    assert log_joint[0, 1, 1] == 0
    assert log_joint[0, 0, 0] == -2e4
    assert class_log_prob(log_joint)[0, 0].item() == pytest.approx(-2e4 + math.log(4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_to_1_in_float32(dtype):
    joint = joint_log_prob(torch.randn(2, 5, 7, 7).to(dtype))
    assert joint.dtype == torch.float32
    assert torch.allclose(joint.exp().sum(dim=(1, 2)), torch.ones(2), atol=1e-5)


def test_no_level_is_an_error():
    with pytest.raises(ValueError, match="at least one level"):
        joint_log_prob([])


@pytest.mark.parametrize("shape", [(3, 3, 2, 2), (2, 4, 2, 2), (2, 3, 4)])
def test_levels_that_disagree_are_an_error(shape):
    with pytest.raises(ValueError, match=r"level 1 .*expected \(2, 3, h, w\)") as caught:
        joint_log_prob([torch.zeros(2, 3, 4, 4), torch.zeros(shape)])
    assert str(tuple(shape)) in str(caught.value)
