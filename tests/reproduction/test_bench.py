"""The benchmark measures what it says; how fast anything is, is not tested."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from cstn_lib.config import ModelConfig
from cstn_lib.cstn import ConvSTN2d
from cstn_lib.reproduction.bench import (
    LayerCase,
    SystemCase,
    by_copies,
    by_deform,
    measure_layer,
    measure_system,
    median_seconds,
    peak_megabytes,
    ratio_tables,
    run_benchmarks,
)

TINY = LayerCase(channels=4, size=8, kernel=3, batch=2)
SMALL = SystemCase("small", ModelConfig(num_classes=3), 80, 2, "float32")


@pytest.mark.parametrize("way", [by_copies, by_deform])
def test_the_contestants_compute_the_same(way):
    torch.manual_seed(0)
    layer = ConvSTN2d(3, 5, 3, bias=False)
    x = torch.randn(2, 3, 7, 8, requires_grad=True)
    theta = (torch.eye(2, 3) + 0.3 * torch.randn(2, 5, 6, 2, 3)).requires_grad_()
    results = []
    for features in (layer(x, theta)[0], way(x, theta, layer.window, layer.weight)):
        gradients = torch.autograd.grad(features.square().sum(), (x, theta, layer.weight))
        results.append((features, *gradients))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_median_takes_turns():
    order = []
    found = median_seconds(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, "cpu", 0.0
    )
    assert list(found) == ["a", "b"]
    assert order == ["a", "b"] * 4  # once to warm up


def test_peak_is_of_what_lives_at_once():
    def one_after_the_other() -> None:
        for _ in range(5):
            torch.ones(1_000_000)

    def together() -> None:
        kept = [torch.ones(1_000_000) for _ in range(5)]
        del kept

    assert peak_megabytes(one_after_the_other, "cpu") == pytest.approx(4, rel=0.3)
    assert peak_megabytes(together, "cpu") == pytest.approx(20, rel=0.1)


def test_peak_does_not_depend_on_what_was_measured_before():
    left = []

    def leaves_more() -> None:
        left.append(torch.ones(10_000_000))

    def step() -> None:
        torch.ones(1_000_000)

    alone = peak_megabytes(step, "cpu")
    peak_megabytes(leaves_more, "cpu")
    assert peak_megabytes(step, "cpu") == pytest.approx(alone, rel=0.01)


def test_the_layer_never_holds_all_samples():
    """K=13 on a 20 x 20 map: the samples alone are larger than the peak of a training step."""
    case = LayerCase(channels=16, size=20, kernel=13, batch=16)
    samples = case.batch * 8 * 8 * 13 * 13 * case.channels * 4 / 1e6
    row = measure_layer(case, "cpu", 0.0)
    assert row["convstn_peak_mb"] < samples < row["copies_peak_mb"]


def test_the_file_has_the_promised_fields():
    result = run_benchmarks("cpu", (TINY,), [SMALL], seconds=0.0)
    layer, system = json.loads(json.dumps(result))["layer"], result["system"]
    assert {
        *("channels", "size", "kernel", "batch", "conv_s", "convstn_s", "copies_s", "deform_s"),
        *("convstn_peak_mb", "copies_peak_mb"),
    } <= layer[0].keys()
    assert {
        *("model", "image_size", "train_plain_ips", "train_cstn_ips"),
        *("infer_plain_ips", "infer_cstn_ips", "infer_fused_ips", "infer_views_ips"),
    } <= system[0].keys()
    assert result["threads"] == torch.get_num_threads()
    assert all(value > 0 for name, value in layer[0].items() if name != "precision")
    ratios, shares = ratio_tables(result)
    assert ratios.index.tolist() == ["C=4 8x8 K=3 float32"]
    assert shares.index.tolist() == ["small x2 float32"]
    three = system[0]["infer_cstn_ips"] / system[0]["infer_views_ips"]
    assert shares["three views / network"].iloc[0] == round(three, 2)
    assert ratios["CSTN / conv"].iloc[0] == round(layer[0]["convstn_s"] / layer[0]["conv_s"], 2)


def test_training_moves_both_systems():
    row = measure_system(SMALL, "cpu", 0.0)
    assert min(value for name, value in row.items() if name.endswith("_ips")) > 0


def test_bfloat16_is_measured_in_bfloat16(monkeypatch):
    """Contestants get maps and give features as within a network under autocast."""
    seen = []
    original = torch.Tensor.backward

    def backward(features: torch.Tensor, gradient: torch.Tensor) -> None:
        seen.append((features.dtype, gradient.dtype))
        original(features, gradient)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    row = measure_layer(replace(TINY, precision="bfloat16"), "cpu", 0.0)
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}
    assert row["precision"] == "bfloat16"
