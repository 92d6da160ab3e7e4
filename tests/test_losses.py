"""Eq. 2, 3 and 4 against plain loops, and the relation to the authors' sums over the batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cstn_lib.joint import joint_log_prob
from cstn_lib.losses import (
    AUTHORS_BATCH,
    authors_weight,
    box_loss,
    classification_loss,
    level_loss,
    scale_loss,
    theta_loss,
    total_loss,
)

CLASSES = 3
LEVELS = [[(3, 4)], [(4, 3), (2, 2)], [(4, 4), (3, 2), (1, 2)]]  # one, two and three levels


def sample(sizes: list[tuple[int, int]], batch: int = 4) -> tuple[list[Tensor], ...]:
    generator = torch.Generator().manual_seed(7 + len(sizes))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scores = [2 * normal(batch, CLASSES, h, w) for h, w in sizes]
    thetas = [torch.eye(2, 3) + 0.5 * normal(batch, h, w, 2, 3) for h, w in sizes]
    target = torch.randint(CLASSES, (batch,), generator=generator)
    return scores, thetas, target


def loop_p(scores: list[Tensor], image: int, c: int, level: int) -> list[float]:
    """p(c, l, s) for every location l of a level."""
    total = sum(math.exp(v) for score in scores for v in score[image].flatten().tolist())
    return [math.exp(v) / total for v in scores[level][image, c].flatten().tolist()]


def loop_cls(scores: list[Tensor], image: int, c: int) -> float:
    return -math.log(sum(sum(loop_p(scores, image, c, s)) for s in range(len(scores))))


def loop_theta(thetas: list[Tensor], image: int) -> float:
    reference = [[1, 0, 0], [0, 1, 0]]
    total = 0.0
    for theta in thetas:
        for row in theta[image].tolist():
            for entries in row:
                for i in range(2):
                    for j in range(3):
                        total += (reference[i][j] - entries[i][j]) ** 2
    return total


def loop_scale(scores: list[Tensor], image: int, c: int) -> float:
    total = 0.0
    for finer in range(len(scores) - 1):
        difference = max(loop_p(scores, image, c, finer)) - max(loop_p(scores, image, c, finer + 1))
        total += max(0.0, difference)
    return total


@pytest.mark.parametrize("sizes", LEVELS)
def test_each_loss(sizes, device):
    scores, thetas, target = sample(sizes)
    log_joint = joint_log_prob([score.to(device) for score in scores])
    cls = classification_loss(log_joint, target.to(device))
    theta = theta_loss([theta.to(device) for theta in thetas])
    scale = scale_loss(log_joint, target.to(device), sizes)
    assert cls.shape == theta.shape == scale.shape == (4,)
    for image, c in enumerate(target.tolist()):
        assert cls[image].item() == pytest.approx(loop_cls(scores, image, c), rel=1e-10)
        assert theta[image].item() == pytest.approx(loop_theta(thetas, image), rel=1e-10)
        assert scale[image].item() == pytest.approx(loop_scale(scores, image, c), rel=1e-10)


def test_theta_loss_wants_a_list():
    """One tensor would be taken for as many levels as it has images."""
    with pytest.raises(ValueError, match="one per level"):
        theta_loss(torch.eye(2, 3).expand(4, 3, 3, 2, 3))


def test_theta_loss_is_zero_at_the_identity_only():
    theta = torch.eye(2, 3).repeat(2, 3, 3, 1, 1)
    assert theta_loss([theta]).tolist() == [0, 0]
    theta[1, 2, 0, 1, 2] = -0.5  # a translation
    theta[1, 0, 0, 0, 0] = 3  # an enlargement
    assert theta_loss([theta]).tolist() == [0, 0.25 + 4]
    assert theta_loss([theta, theta]).tolist() == [0, 2 * 4.25]


def two_levels(finer: float, coarser: float) -> Tensor:
    """log p of one image: two classes, one location a level, the given p of class 1."""
    rest = (1 - finer - coarser) / 2
    return torch.tensor([[[rest, rest], [finer, coarser]]], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("finer", "coarser", "expected"), [(0.6, 0.1, 0.5), (0.1, 0.6, 0.0), (0.3, 0.3, 0.0)]
)
def test_scale_loss_charges_the_finer_level_only(finer, coarser, expected):
    loss = scale_loss(two_levels(finer, coarser), torch.tensor([1]), [(1, 1), (1, 1)])
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_scale_loss_compares_neighbours_of_three_levels():
    """0.1 over 0.05 costs 0.05; 0.05 under 0.4 costs nothing; the ends are not compared."""
    p = torch.tensor([[[0.1, 0.05, 0.4], [0.15, 0.15, 0.15]]], dtype=torch.float64)
    loss = scale_loss(p.log(), torch.tensor([0]), [(1, 1)] * 3)
    assert loss.item() == pytest.approx(0.05)


def test_scale_loss_reads_the_true_class():
    log_joint = two_levels(0.6, 0.1)  # class 1 is predicted
    sizes = [(1, 1), (1, 1)]
    assert scale_loss(log_joint, torch.tensor([0]), sizes).item() == pytest.approx(0, abs=1e-12)


def test_one_level_costs_nothing():
    scores, _, target = sample([(3, 4)])
    assert scale_loss(joint_log_prob(scores), target, [(3, 4)]).tolist() == [0] * 4


@pytest.mark.parametrize("sizes", LEVELS)
def test_total_is_eq_4_with_means_over_the_batch(sizes, device):
    scores, thetas, target = sample(sizes)
    there = [theta.to(device) for theta in thetas]
    log_joint = joint_log_prob([score.to(device) for score in scores])
    weights = {"lambda_theta": 0.03, "alpha_scale": 1.7}
    terms = total_loss(log_joint, there, target.to(device), sizes, **weights)
    classes = target.tolist()
    cls = sum(loop_cls(scores, i, c) for i, c in enumerate(classes)) / 4
    theta = sum(loop_theta(thetas, i) for i in range(4)) / 4
    scale = sum(loop_scale(scores, i, c) for i, c in enumerate(classes)) / 4
    assert set(terms) == {"loss", "loss_cls", "loss_theta", "loss_scale"}
    assert all(term.shape == () for term in terms.values())
    assert terms["loss_cls"].item() == pytest.approx(cls, rel=1e-10)
    assert terms["loss_theta"].item() == pytest.approx(theta, rel=1e-10)
    assert terms["loss_scale"].item() == pytest.approx(scale, rel=1e-10)
    assert terms["loss"].item() == pytest.approx(cls + 0.03 * theta + 1.7 * scale, rel=1e-10)


@pytest.mark.parametrize("sizes", LEVELS)
def test_level_loss_is_the_classification_loss_of_each_level_alone(sizes):
    scores, thetas, target = sample(sizes)
    log_joint = joint_log_prob(scores)
    found = level_loss(log_joint, target, sizes)
    for image, c in enumerate(target.tolist()):
        alone = [loop_cls([score], image, c) for score in scores]
        assert found[image].item() == pytest.approx(sum(alone) / len(alone), rel=1e-10)
    plain, with_levels = (
        total_loss(
            log_joint, thetas, target, sizes, lambda_theta=0.03, alpha_scale=1.7, level_weight=w
        )
        for w in (0.0, 0.6)
    )
    assert with_levels["loss_level"].item() == pytest.approx(found.mean().item())
    gap = with_levels["loss"] - plain["loss"]
    assert gap.item() == pytest.approx(0.6 * found.mean().item(), rel=1e-9)


@pytest.mark.parametrize("sizes", LEVELS)
def test_box_loss_against_a_loop(sizes):
    """1 - GIoU (Rezatofighi et al. 2019) of each location's box, weighted by its vote."""
    scores, _, target = sample(sizes)
    log_joint = joint_log_prob(scores).requires_grad_()
    generator = torch.Generator().manual_seed(1)
    ends = torch.rand(4, log_joint.shape[2] + 1, 2, 2, generator=generator, dtype=torch.float64)
    boxes = ends.sort(2).values.flatten(2).requires_grad_()  # the last of each image is the known
    found = box_loss(log_joint, boxes[:, :-1], target, boxes[:, -1])
    for image, c in enumerate(target.tolist()):
        votes = log_joint[image, c].exp()
        expected = 0.0
        for vote, box in zip(votes / votes.sum(), boxes[image, :-1].tolist(), strict=True):
            other = boxes[image, -1].tolist()
            inner = [max(box[0], other[0]), max(box[1], other[1])]
            inner += [min(box[2], other[2]), min(box[3], other[3])]
            outer = [min(box[0], other[0]), min(box[1], other[1])]
            outer += [max(box[2], other[2]), max(box[3], other[3])]
            both = max(inner[2] - inner[0], 0) * max(inner[3] - inner[1], 0)
            one, two, hull = ((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other, outer))
            giou = both / (one + two - both) - (hull - (one + two - both)) / hull
            expected += vote.item() * (1 - giou)
        assert found[image].item() == pytest.approx(expected, rel=1e-5)
    found.sum().backward()
    assert log_joint.grad is None and boxes.grad[:, :-1].abs().sum() > 0


def test_the_authors_sums_over_16_images_are_16_times_the_printed_weights():
    sizes = LEVELS[1]
    scores, thetas, target = sample(sizes, batch=16)
    printed_lambda, printed_alpha = 1e-4, 5.0
    classes = target.tolist()
    authors = (
        sum(loop_cls(scores, i, c) for i, c in enumerate(classes)) / 16
        + printed_lambda * sum(loop_theta(thetas, i) for i in range(16))
        + printed_alpha * sum(loop_scale(scores, i, c) for i, c in enumerate(classes))
    )
    ours = total_loss(
        joint_log_prob(scores),
        thetas,
        target,
        sizes,
        lambda_theta=authors_weight(printed_lambda),
        alpha_scale=authors_weight(printed_alpha),
    )
    assert AUTHORS_BATCH == 16
    assert ours["loss"].item() == pytest.approx(authors, rel=1e-10)
    assert authors_weight(0.5, batch=4) == 2.0


def test_a_network_without_theta_pays_no_l_theta():
    scores, _, target = sample(LEVELS[1])
    terms = total_loss(
        joint_log_prob(scores), [], target, LEVELS[1], lambda_theta=1e6, alpha_scale=0
    )
    assert terms["loss_theta"].item() == 0
    assert terms["loss"].item() == terms["loss_cls"].item()


def test_gradients_pull_theta_home_and_the_coarser_level_up():
    scores = [torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 1, 1)]
    scores[0][0, 1, 0, 0] = 2.0
    for score in scores:
        score.requires_grad_()
    theta = (torch.eye(2, 3) + 0.1).repeat(1, 2, 2, 1, 1).requires_grad_()
    terms = total_loss(
        joint_log_prob(scores),
        [theta],
        torch.tensor([1]),
        [(2, 2), (1, 1)],
        lambda_theta=1.0,
        alpha_scale=1.0,
    )
    (gradient,) = torch.autograd.grad(terms["loss_theta"], theta, retain_graph=True)
    assert torch.allclose(gradient, torch.full_like(gradient, 0.2))
    finer, coarser = torch.autograd.grad(terms["loss_scale"], scores)
    assert finer[0, 1, 0, 0] > 0 > coarser[0, 1, 0, 0]


@pytest.mark.parametrize("winner", [0, 1])
def test_extreme_scores_stay_finite(winner, device):
    shapes = [(2, 2, 2, 2), (2, 2, 1, 1)]
    scores = [torch.full(shape, -1e4, device=device) for shape in shapes]
    scores[winner][:, 0, 0, 0] = 1e4
    for score in scores:
        score.requires_grad_()
    terms = total_loss(
        joint_log_prob(scores),
        [],
        torch.tensor([0, 1], device=device),
        [(2, 2), (1, 1)],
        lambda_theta=1.0,
        alpha_scale=1.0,
    )
    assert all(term.isfinite() for term in terms.values())
    assert terms["loss_scale"].item() == pytest.approx(0.5 if winner == 0 else 0)
    terms["loss"].backward()
    assert all(score.grad.isfinite().all() for score in scores)
