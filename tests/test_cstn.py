"""`ConvSTN2d`: an ordinary convolution at the identity, a slow loop elsewhere, and its samplers."""

from __future__ import annotations

import doctest
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import cstn_lib.cstn
from cstn_lib.cstn import SAMPLERS, ConvSTN2d, LocalizationNetwork, conv_stn2d
from cstn_lib.geometry import Window, sampling_points

EVERY_SAMPLER = pytest.mark.parametrize("sampler", ["auto", *SAMPLERS])


def needs(sampler: str, device: str) -> None:
    """Skip the test of a sampler that does not compute there."""
    if sampler == "loops" and device != "cpu":
        pytest.skip("the loops compute on a CPU")


@st.composite
def cases(draw: st.DrawFn) -> dict:
    """Arguments of a layer and a map that its window fits, down to sides of one cell."""
    k, dilation = draw(st.integers(2, 5)), draw(st.integers(1, 3))
    padding = draw(st.integers(0, 3))
    least = max(1, (k - 1) * dilation + 1 - 2 * padding)
    return {
        "layer": {
            "in_channels": draw(st.integers(1, 4)),
            "out_channels": draw(st.integers(1, 4)),
            "kernel_size": k,
            "stride": draw(st.integers(1, 3)),
            "padding": padding,
            "dilation": dilation,
            "bias": draw(st.booleans()),
        },
        "size": (least + draw(st.integers(0, 4)), least + draw(st.integers(0, 4))),
        "batch": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 2**32)),
    }


def build(
    case: dict, sampler: str = "auto", device: str = "cpu"
) -> tuple[ConvSTN2d, nn.Conv2d, Tensor]:
    """The layer, the ordinary convolution with the same parameters, and an input."""
    torch.manual_seed(case["seed"])
    layer = ConvSTN2d(**case["layer"], localization_channels=2, sampler=sampler)
    conv = nn.Conv2d(**case["layer"])
    conv.load_state_dict(
        {name: p for name, p in layer.state_dict().items() if name in ("weight", "bias")}
    )
    x = torch.randn(case["batch"], case["layer"]["in_channels"], *case["size"])
    return layer.to(device), conv.to(device), x.to(device)


def random_theta(layer: ConvSTN2d, x: Tensor, spread: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    height, width = layer.window.output_size((x.shape[2], x.shape[3]))
    noise = torch.randn(len(x), height, width, 2, 3, generator=generator, dtype=torch.float64)
    return (torch.eye(2, 3) + spread * noise).to(x)


def loop_features(layer: ConvSTN2d, x: Tensor, theta: Tensor) -> Tensor:
    """The layer from its definition: one bilinear sample after the other, zeros outside."""
    window, k = layer.window, layer.window.kernel_size
    half = (k - 1) / 2 * window.dilation
    batch, height, width = theta.shape[:3]
    rows, columns = x.shape[2:]
    output = torch.zeros(batch, len(layer.weight), height, width, dtype=torch.float64)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                (a11, a12, a13), (a21, a22, a23) = theta[b, i, j].tolist()
                total = torch.zeros(len(layer.weight), dtype=torch.float64)
                for m in range(k):
                    for n in range(k):
                        u, v = 2 * n / (k - 1) - 1, 2 * m / (k - 1) - 1
                        px = (
                            j * window.stride
                            - window.padding
                            + half * (1 + a11 * u + a12 * v + a13)
                        )
                        py = (
                            i * window.stride
                            - window.padding
                            + half * (1 + a21 * u + a22 * v + a23)
                        )
                        for cy in (math.floor(py), math.floor(py) + 1):
                            for cx in (math.floor(px), math.floor(px) + 1):
                                if 0 <= cy < rows and 0 <= cx < columns:
                                    share = (1 - abs(px - cx)) * (1 - abs(py - cy))
                                    kernel = layer.weight[:, :, m, n].double()
                                    total += share * (kernel @ x[b, :, cy, cx].double())
                if layer.bias is not None:
                    total += layer.bias.double()
                output[b, :, i, j] = total
    return output


@EVERY_SAMPLER
@settings(max_examples=40, deadline=None)  # the first example compiles
@given(case=cases())
def test_identity_is_the_ordinary_convolution(device, sampler, case):
    needs(sampler, device)
    layer, conv, x = build(case, sampler, device)
    expected = conv(x)
    for features, theta in (layer(x), layer.plain(x)):
        assert features.shape == expected.shape
        assert torch.allclose(features, expected, atol=1e-5)
        assert theta.shape == (len(x), *expected.shape[2:], 2, 3)
        assert torch.equal(theta, torch.eye(2, 3, device=device).expand_as(theta))


@EVERY_SAMPLER
def test_identity_has_the_gradients_of_the_ordinary_convolution(device, sampler):
    needs(sampler, device)
    case = {
        "layer": {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "padding": 1},
        "size": (6, 5),
        "batch": 2,
        "seed": 1,
    }
    layer, conv, x = build(case, sampler, device)
    theta = random_theta(layer, x, spread=0.0)
    seed = torch.randn_like(conv(x))
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    (layer(inputs[0], theta)[0] * seed).sum().backward()
    (conv(inputs[1]) * seed).sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-4)
    assert torch.allclose(layer.weight.grad, conv.weight.grad, atol=1e-4)
    assert torch.allclose(layer.bias.grad, conv.bias.grad, atol=1e-4)


LOOP_CASES = [
    ({"kernel_size": 3}, (5, 6)),
    ({"kernel_size": 2, "stride": 2, "padding": 1}, (4, 5)),
    ({"kernel_size": 3, "dilation": 2, "padding": 2, "bias": False}, (4, 4)),
    ({"kernel_size": 2}, (2, 3)),
    ({"kernel_size": 3, "padding": 1}, (1, 4)),
]


@EVERY_SAMPLER
@pytest.mark.parametrize(("arguments", "size"), LOOP_CASES)
@pytest.mark.parametrize("spread", [0.3, 2.0], ids=["near", "far outside"])
def test_given_theta_against_a_loop(device, sampler, arguments, size, spread):
    needs(sampler, device)
    torch.manual_seed(5)
    layer = ConvSTN2d(2, 3, **arguments, sampler=sampler)
    x = torch.randn(2, 2, *size)
    theta = random_theta(layer, x, spread)
    expected = loop_features(layer, x, theta)
    theta = theta.to(device)
    features, returned = layer.to(device)(x.to(device), theta)
    assert returned is theta
    assert torch.allclose(features.double().cpu(), expected, atol=1e-5)


@EVERY_SAMPLER
def test_a_theta_for_each_image_and_location(sampler):
    """Moving one window changes one feature vector."""
    torch.manual_seed(0)
    layer, x = ConvSTN2d(2, 3, 3, sampler=sampler), torch.randn(2, 2, 6, 6)
    theta = random_theta(layer, x, 0.0)
    before = layer(x, theta)[0]
    theta[1, 2, 0, 0, 2] = 0.7
    changed = (layer(x, theta)[0] != before).any(dim=1)
    assert changed.nonzero().tolist() == [[1, 2, 0]]


def values_and_gradients(
    sampler: str, dtype: torch.dtype, spread: float, device: str = "cpu"
) -> list[Tensor]:
    torch.manual_seed(11)
    layer = ConvSTN2d(5, 4, 3, padding=1, sampler=sampler).to(device, dtype)
    x = torch.randn(2, 5, 6, 7, dtype=dtype).to(device).requires_grad_()
    theta = random_theta(layer, x, spread, seed=12).requires_grad_()
    features, _ = layer(x, theta)
    seed = torch.randn(features.shape, generator=torch.Generator().manual_seed(13)).to(x)
    gradients = torch.autograd.grad((features * seed).sum(), [x, theta, *layer.parameters()][:4])
    return [value.cpu() for value in (features, *gradients)]


@pytest.mark.parametrize("spread", [0.2, 1.5], ids=["near", "far outside"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_samplers_agree(device, dtype, tolerance, spread):
    reference, *others = (values_and_gradients(name, dtype, spread) for name in SAMPLERS)
    assert len(others) >= 1
    others.append(values_and_gradients("auto", dtype, spread, device))
    for other in others:
        for a, b in zip(reference, other, strict=True):
            assert a.dtype == b.dtype == dtype
            scale = max(1.0, a.abs().max().item())
            assert (a - b).abs().max().item() < tolerance * scale


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(max_examples=30, deadline=None)
@given(case=cases())
def test_samplers_agree_with_grid_sample_on_any_window(device, sampler, case):
    layer, _, x = build(case, sampler)
    other, _, there = build(case, "grid_sample", device)
    theta = random_theta(layer, x, 0.5, seed=case["seed"])
    found = other(there, theta.to(device))[0].cpu()
    assert torch.allclose(layer(x, theta)[0], found, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gradcheck(sampler):
    """Numerical derivatives in float64, with every sample away from the kinks at whole cells."""
    torch.manual_seed(3)
    layer = ConvSTN2d(2, 2, 3, sampler=sampler).double()
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64)
    for seed in range(1000):
        theta = random_theta(layer, x, 0.4, seed=seed)
        points = sampling_points(theta, layer.window, (4, 5))
        if ((points - points.round()).abs() > 1e-3).all():
            break
    else:
        raise AssertionError("no theta away from whole cells")
    assert (points < 0).any() and (points > 4).any(), "some samples fall outside"

    def features(weight: Tensor, bias: Tensor, x: Tensor, theta: Tensor) -> Tensor:
        parameters = {"weight": weight, "bias": bias}
        return torch.func.functional_call(layer, parameters, (x, theta))[0]

    inputs = (layer.weight.detach(), layer.bias.detach(), x, theta)
    inputs = [value.requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(features, inputs)
    if sampler == "grid_sample":
        assert torch.autograd.gradgradcheck(features, inputs)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("wanted", ["x", "theta", "weight"])
def test_gradients_of_one_input_alone(sampler, wanted):
    """A frozen backbone, a given theta or a frozen kernel ask for fewer gradients."""
    torch.manual_seed(4)
    layer = ConvSTN2d(3, 2, 3, sampler=sampler).requires_grad_(False)
    x = torch.randn(1, 3, 5, 5)
    inputs = {"x": x, "theta": random_theta(layer, x, 0.3), "weight": layer.weight}
    everything = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}

    def loss(values: dict[str, Tensor]) -> Tensor:
        weight = {"weight": values["weight"]}
        return torch.func.functional_call(layer, weight, (values["x"], values["theta"]))[0].sum()

    expected = dict(
        zip(everything, torch.autograd.grad(loss(everything), everything.values()), strict=True)
    )
    alone = {name: value.detach().clone() for name, value in inputs.items()}
    alone[wanted].requires_grad_()
    (gradient,) = torch.autograd.grad(loss(alone), alone[wanted])
    assert torch.allclose(gradient, expected[wanted], atol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_gradients_under_inference_mode(sampler):
    layer, x = ConvSTN2d(3, 2, 3, sampler=sampler), torch.randn(1, 3, 5, 5)
    expected = layer(x)[0]
    with torch.inference_mode():
        assert torch.allclose(layer(x)[0], expected, atol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_empty_batch_is_a_batch(sampler):
    layer = ConvSTN2d(4, 2, 3, sampler=sampler)
    x = torch.rand(0, 4, 8, 8, requires_grad=True)
    features, theta = layer(x)
    features.sum().backward()
    assert features.shape == (0, 2, 6, 6) and theta.shape == (0, 6, 6, 2, 3)
    assert x.grad.shape == x.shape
    assert layer.weight.grad.abs().max() == 0


@EVERY_SAMPLER
@settings(max_examples=30, deadline=None)
@given(case=cases())
def test_memory_format_is_the_inputs_and_nothing_else(device, sampler, case):
    needs(sampler, device)
    layer, _, x = build(case, sampler, device)
    theta = random_theta(layer, x, 0.5)
    expected = layer(x, theta)[0]
    assert expected.is_contiguous()
    assert torch.equal(expected.view(len(x), -1), expected.flatten(1)), "as after a convolution"
    last = x.contiguous(memory_format=torch.channels_last)
    features = layer(last, theta)[0]
    assert torch.allclose(features, expected, atol=1e-5)
    if not last.is_contiguous():  # one channel or one cell lies the same way in both
        assert features.is_contiguous(memory_format=torch.channels_last)
    turned = theta.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.allclose(layer(x, turned)[0], expected, atol=1e-5)


@EVERY_SAMPLER
def test_nan_theta_gives_nan_features(device, sampler):
    """Where it is, and nowhere else."""
    needs(sampler, device)
    layer, x = ConvSTN2d(2, 3, 3, sampler=sampler).to(device), torch.randn(2, 2, 6, 6).to(device)
    theta = random_theta(layer, x, 0.0)
    theta[1, 2, 3, 0, 0] = float("nan")
    missing = layer(x, theta)[0].isnan()
    assert missing.any(dim=1).nonzero().tolist() == [[1, 2, 3]]
    assert missing[1, :, 2, 3].all()


@settings(max_examples=30, deadline=None)
@given(case=cases(), bad=st.sampled_from([math.inf, -math.inf, math.nan]), entry=st.integers(0, 5))
def test_samplers_agree_where_theta_is_not_finite(device, case, bad, entry):
    layer, _, x = build(case)
    theta = random_theta(layer, x, 0.3, seed=case["seed"])
    theta.flatten(3)[0, -1, -1, entry] = bad
    arguments = theta, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation
    first, *others = (conv_stn2d(x, *arguments, sampler=name) for name in SAMPLERS)
    others.append(layer.to(device)(x.to(device), theta.to(device))[0].cpu())
    for other in others:
        assert torch.allclose(first, other, atol=1e-4, equal_nan=True)
    assert first[..., :-1, :].isfinite().all(), "the other locations are what they were"


@EVERY_SAMPLER
@pytest.mark.parametrize("shift", [1e3, 1e30, math.inf])
def test_windows_far_outside_see_zeros(device, sampler, shift):
    needs(sampler, device)
    layer, x = ConvSTN2d(2, 3, 3, sampler=sampler).to(device), torch.randn(1, 2, 6, 6).to(device)
    theta = random_theta(layer, x, 0.0)
    theta[..., 2] = torch.tensor([shift, -shift])
    theta.requires_grad_()
    features, _ = layer(x, theta)
    assert torch.allclose(features, layer.bias.view(1, 3, 1, 1).expand_as(features))
    features.sum().backward()
    assert torch.equal(theta.grad, torch.zeros_like(theta))


def test_state_dict():
    layer = ConvSTN2d(4, 6, 5)
    state = layer.state_dict()
    assert state["weight"].shape == (6, 4, 5, 5)
    assert state["bias"].shape == (6,)
    assert all(name.startswith("localization.") for name in set(state) - {"weight", "bias"})
    assert "bias" not in ConvSTN2d(4, 6, 5, bias=False).state_dict()


def test_initialised_as_conv2d_is():
    torch.manual_seed(0)
    layer = ConvSTN2d(8, 64, 3)
    layer.reset_parameters()
    conv = nn.Conv2d(8, 64, 3)
    for ours, theirs in ((layer.weight, conv.weight), (layer.bias, conv.bias)):
        bound = 1 / math.sqrt(8 * 9)
        assert ours.abs().max() <= bound
        assert ours.abs().max().item() == pytest.approx(bound, rel=0.1)
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.2)


def moved(layer: ConvSTN2d) -> ConvSTN2d:
    """The same layer with a localization network that has learned something."""
    nn.init.normal_(layer.localization.regress.weight, std=0.05)
    return layer


def reset_all(net: nn.Module) -> None:
    net.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)


def reset_from_the_top(net: nn.Module) -> None:
    """Parents first, as FSDP does."""
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


RESETS = [ConvSTN2d.reset_parameters, reset_all, reset_from_the_top]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("reset", RESETS)
def test_a_reset_layer_is_at_the_identity(reset, wrapped):
    layer = moved(ConvSTN2d(3, 4, 3))
    read, weight = layer.localization.read.weight.clone(), layer.weight.clone()
    reset(nn.Sequential(layer)[0] if wrapped else layer)
    assert not torch.equal(layer.localization.read.weight, read)
    assert not torch.equal(layer.weight, weight)
    theta = layer(torch.randn(2, 3, 6, 5))[1]
    assert torch.equal(theta, torch.eye(2, 3).expand_as(theta))


@pytest.mark.parametrize("reset", RESETS)
def test_empty_parameters_are_filled(reset):
    layer = ConvSTN2d(3, 4, 3, device="meta").to_empty(device="cpu")
    for parameter in layer.parameters():  # what lay in memory
        nn.init.constant_(parameter, 2e32)
    reset(layer)
    assert all(parameter.abs().max() < 1 for parameter in layer.parameters())
    theta = layer(torch.randn(2, 3, 6, 5))[1]
    assert torch.equal(theta, torch.eye(2, 3).expand_as(theta))


def test_reset_leaves_a_localization_without_reset_alone():
    layer = ConvSTN2d(2, 3, 3, localization=nn.Identity())
    layer.reset_parameters()
    assert isinstance(layer.localization, nn.Identity)


def test_device_and_type_of_all_parameters():
    layer = ConvSTN2d(3, 4, 3, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float64)}
    skipped = nn.utils.skip_init(ConvSTN2d, 3, 4, 3)
    assert skipped.weight.shape == (4, 3, 3, 3) and skipped.weight.device.type == "cpu"


@st.composite
def conv2d_arguments(draw: st.DrawFn) -> tuple[tuple, dict, tuple[int, int]]:
    """What a Conv2d and a ConvSTN2d are both made with, and a map's size that fits."""

    def pair(value: int) -> int | tuple[int, int] | list[int]:
        return draw(st.sampled_from([value, (value, value), [value, value]]))

    k, dilation, stride = (draw(st.integers(*r)) for r in ((2, 5), (1, 2), (1, 3)))
    padding = draw(st.sampled_from(["valid", "same", *map(pair, (0, 1, 2))]))
    if padding == "same":
        k, stride = 2 * draw(st.integers(1, 2)) + 1, 1
    positional = 2, 3, pair(k), pair(stride), padding, pair(dilation), 1, draw(st.booleans())
    named = draw(st.sampled_from([{}, {"padding_mode": "zeros"}, {"dtype": torch.float64}]))
    least = (k - 1) * dilation + 1
    return positional, named, (least + draw(st.integers(0, 3)), least + draw(st.integers(0, 3)))


@settings(max_examples=60, deadline=None)
@given(arguments=conv2d_arguments())
def test_takes_the_arguments_of_conv2d_and_shows_its_attributes(arguments):
    positional, named, size = arguments
    conv = nn.Conv2d(*positional, **named)
    made = ConvSTN2d(*positional, **named, localization_channels=2)
    x = torch.randn(2, 2, *size, dtype=conv.weight.dtype)
    for layer in (made, ConvSTN2d.from_conv(conv, localization_channels=2)):
        for name in ("in_channels", "out_channels", "groups", "padding_mode", "training"):
            assert getattr(layer, name) == getattr(conv, name)
        for name in ("kernel_size", "stride", "padding", "dilation"):
            ours, theirs = getattr(layer, name), getattr(conv, name)
            assert ours == (theirs if isinstance(theirs, str) else tuple(theirs))
        assert (layer.bias is None) == (conv.bias is None)
        assert layer.weight.shape == conv.weight.shape and layer.weight.dtype == conv.weight.dtype
        assert layer(x)[0].shape == layer.plain(x)[0].shape == conv(x).shape
    assert torch.allclose(layer(x)[0], conv(x), atol=1e-5)


REFUSED = [
    ({"kernel_size": 1}, "kernel_size=1: expected 2 or more"),
    ({"kernel_size": (3, 5)}, r"kernel_size=\(3, 5\): expected an int, or the same int twice"),
    ({"kernel_size": 3.0}, r"kernel_size=3.0: expected an int"),
    ({"kernel_size": (3,)}, r"kernel_size=\(3,\): expected an int"),
    ({"stride": (1, 2)}, r"stride=\(1, 2\): expected"),
    ({"stride": 0}, "stride and dilation must be at least 1"),
    ({"padding": (0, 1)}, r"padding=\(0, 1\): expected"),
    ({"padding": "full"}, "padding='full': expected an int"),
    ({"padding": "same", "stride": 2}, "padding='same': expected stride 1 .* not stride 2"),
    ({"padding": "same", "kernel_size": 4}, r"even \(kernel_size - 1\) \* dilation, .* and 3"),
    ({"dilation": (1, 2)}, r"dilation=\(1, 2\): expected"),
    ({"groups": 3}, "groups=3: expected 1"),
    ({"padding_mode": "reflect"}, "padding_mode='reflect': expected 'zeros'"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_no_square_window_can_do_is_refused_in_one_line(arguments, message):
    arguments = {"kernel_size": 3, **arguments}
    with pytest.raises(ValueError, match=message) as caught:
        ConvSTN2d(3, 6, **arguments)
    assert "\n" not in str(caught.value)
    try:
        conv = nn.Conv2d(3, 6, **arguments)
    except (ValueError, TypeError, IndexError, RuntimeError):
        return
    with pytest.raises(ValueError, match=message):
        ConvSTN2d.from_conv(conv)


def test_numpy_integers_are_integers():
    layer = ConvSTN2d(np.int64(3), 4, np.int64(3), padding=np.int64(1))
    assert layer.kernel_size == (3, 3) and layer.padding == (1, 1)
    assert {type(side) for side in layer.kernel_size + layer.padding} == {int}


def test_from_conv_copies():
    conv = nn.Conv2d(3, 4, 5, padding="same").eval().to(memory_format=torch.channels_last)
    conv.weight.requires_grad_(False)
    layer = ConvSTN2d.from_conv(conv, sampler="grid_sample", localization_channels=7)
    assert layer.sampler == "grid_sample" and layer.localization.read.out_channels == 7
    assert not layer.training and not layer.weight.requires_grad and layer.bias.requires_grad
    assert torch.equal(layer.weight, conv.weight) and torch.equal(layer.bias, conv.bias)
    assert layer.weight.stride() == conv.weight.stride()
    with torch.no_grad():
        layer.weight.zero_()
    assert conv.weight.abs().sum() > 0
    for other in (nn.ConvTranspose2d(3, 3, 3), nn.Linear(3, 4)):
        with pytest.raises(ValueError, match=f"a torch.nn.Conv2d, not a {type(other).__name__}"):
            ConvSTN2d.from_conv(other)


class Standardized(nn.Conv2d):
    """Divides its weight by its deviation, as networks trained on large batches do."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*deprecated")
def test_from_conv_refuses_what_a_copy_would_lose():
    with pytest.raises(ValueError, match="Standardized has a forward of its own"):
        ConvSTN2d.from_conv(Standardized(3, 4, 3))
    with pytest.raises(ValueError, match="this Conv2d has hooks of its own"):
        ConvSTN2d.from_conv(nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)))
    patched, watched = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    patched.forward = lambda x: x
    watched.register_full_backward_hook(lambda *_: None)
    for conv, why in ((patched, "a forward"), (watched, "hooks")):
        with pytest.raises(ValueError, match=f"this Conv2d has {why} of its own"):
            ConvSTN2d.from_conv(conv)
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))  # which computes its weight
    x = torch.randn(1, 3, 6, 6)
    assert torch.allclose(ConvSTN2d.from_conv(conv)(x)[0], conv(x), atol=1e-5)


def test_a_theta_and_none_are_not_wanted_at_once():
    with pytest.raises(ValueError, match="theta is given with transform=False"):
        ConvSTN2d(3, 4, 3)(torch.rand(1, 3, 5, 5), torch.rand(1, 3, 3, 2, 3), transform=False)


@pytest.mark.parametrize("name", ["kernel_size", "stride", "padding", "dilation"])
def test_the_window_cannot_be_changed_without_the_network_that_serves_it(name):
    layer = ConvSTN2d(3, 4, 3, padding=1)
    with pytest.raises(AttributeError, match=name):
        setattr(layer, name, (2, 2))


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_hooks_see_the_layer_at_rest(wrap):
    """Weight norm by hooks computes the weight when the layer is called: for each step anew."""
    layer, x = wrap(ConvSTN2d(3, 4, 3, localization_channels=2)), torch.randn(2, 3, 6, 6)
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(None))
    for _ in range(2):
        layer.plain(x)[0].sum().backward()
    assert len(calls) == 2
    layer.eval()
    assert torch.allclose(layer.plain(x)[0], layer(x)[0], atol=1e-5)


def test_what_records_operations_gets_those_of_pytorch():
    layer, x = moved(ConvSTN2d(3, 4, 3, localization_channels=2)), torch.randn(2, 3, 6, 6)
    recorded = make_fx(lambda x: layer(x)[0])(x)
    other = torch.randn(2, 3, 6, 6)
    assert torch.allclose(recorded(other), layer(other)[0], atol=1e-5)


def test_autocast_leaves_float64_alone():
    layer, x = ConvSTN2d(3, 4, 3).double(), torch.randn(1, 3, 6, 6, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x)[0].dtype == layer.plain(x)[0].dtype == torch.float64


def test_a_grey_image_given_to_every_channel():
    grey = torch.rand(2, 1, 6, 6).expand(-1, 3, -1, -1)
    assert ConvSTN2d(3, 4, 3)(grey)[0].is_contiguous()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_types_and_biases_that_do_not_fit_are_refused(sampler):
    x, theta = torch.rand(2, 3, 6, 6), torch.eye(2, 3).repeat(2, 4, 4, 1, 1)
    weight = torch.rand(4, 3, 3, 3)
    for bias in (torch.rand(1), torch.rand(()), torch.rand(16, 4), torch.rand(3)):
        with pytest.raises(ValueError, match=r"bias has shape .*, expected \(4,\)"):
            conv_stn2d(x, theta, weight, bias, sampler=sampler)
    with pytest.raises(ValueError, match=r"weight is of torch\.float64, expected the input's"):
        conv_stn2d(x, theta, weight.double(), sampler=sampler)
    with pytest.raises(ValueError, match=r"theta is of torch\.complex64, expected a real type"):
        conv_stn2d(x, theta.to(torch.complex64), weight, sampler=sampler)
    for channels in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="expected 1 or more"):
            ConvSTN2d(*channels, 3)


def test_the_state_of_a_conv2d_loads_without_a_localization_network():
    conv, layer = nn.Conv2d(3, 4, 3), ConvSTN2d(3, 4, 3)
    missing, unexpected = layer.load_state_dict(conv.state_dict(), strict=False)
    assert {name.split(".")[0] for name in missing} == {"localization"} and not unexpected
    x = torch.randn(1, 3, 6, 6)
    assert torch.allclose(layer(x)[0], conv(x), atol=1e-5)


@EVERY_SAMPLER
@settings(max_examples=30, deadline=None)
@given(case=cases())
def test_the_function_is_the_layer(sampler, case):
    layer, _, x = build(case, sampler)
    window = {name: case["layer"][name] for name in ("stride", "padding", "dilation")}
    theta = random_theta(layer, x, 0.3)
    found = conv_stn2d(x, theta, layer.weight, layer.bias, **window, sampler=sampler)
    assert torch.equal(found, layer(x, theta)[0])
    at_rest = random_theta(layer, x, 0.0)
    found = conv_stn2d(x, at_rest, layer.weight, layer.bias, **window, sampler=sampler)
    assert torch.allclose(found, F.conv2d(x, layer.weight, layer.bias, **window), atol=1e-5)


@EVERY_SAMPLER
@settings(max_examples=20, deadline=None)
@given(case=cases())
def test_an_image_alone_is_a_batch_of_one(sampler, case):
    layer, conv, x = build(case, sampler)
    moved(layer)
    features, theta = layer(x[0])
    expected, of_batch = layer(x[:1])
    assert features.shape == conv(x[0]).shape
    assert torch.equal(features, expected[0]) and torch.equal(theta, of_batch[0])
    assert torch.equal(layer(x[0], theta)[0], features)
    for alone, batch in zip(layer.plain(x[0]), layer.plain(x[:1]), strict=True):
        assert alone.shape == batch.shape[1:]
        assert torch.allclose(alone, batch[0], atol=1e-6)


FOLLOWED = [
    {"kernel_size": 5},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 4, "dilation": 2, "padding": 3, "stride": 3},
]


def other_sizes(device: str = "cpu", **arguments: object) -> tuple[ConvSTN2d, Tensor, list[Tensor]]:
    """A layer that moves, the map to follow it with, and maps of other batches and sizes."""
    torch.manual_seed(7)
    layer = moved(ConvSTN2d(4, 3, **arguments)).to(device)
    sizes = [(2, 12, 13), (3, 17, 11), (1, 9, 20)]
    x, *others = (torch.randn(b, 4, h, w).to(device) for b, h, w in sizes)
    return layer, x, others


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("arguments", FOLLOWED)
@pytest.mark.parametrize("strict", [False, True])
def test_exported_for_any_batch_and_size(arguments, strict):
    layer, x, others = other_sizes(**arguments)
    any_size = {axis: torch.export.Dim.AUTO for axis in (0, 2, 3)}
    exported = torch.export.export(layer, (x,), dynamic_shapes={"x": any_size}, strict=strict)
    for other in others:
        assert_same(exported.module()(other), layer(other))


@pytest.mark.parametrize("arguments", FOLLOWED)
def test_compiled_as_one_graph(device, arguments):
    layer, x, others = other_sizes(device, **arguments)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for other in (x, *others):
        assert_same(compiled(other), layer(other))
    gradients = []
    for way in (compiled, layer):
        loss = way(x)[0].square().sum()
        gradients.append(torch.autograd.grad(loss, list(layer.parameters())))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_the_function_compiled_as_one_graph():
    layer, x, _ = other_sizes(kernel_size=3)
    theta = layer(x)[1].detach()
    compiled = torch.compile(conv_stn2d, fullgraph=True, backend="aot_eager")
    found = compiled(x, theta, layer.weight, layer.bias, (1, 1), "valid")
    assert torch.allclose(found, conv_stn2d(x, theta, layer.weight, layer.bias), atol=1e-5)


@pytest.mark.parametrize("arguments", FOLLOWED)
def test_traced_for_any_size(arguments, tmp_path):
    layer, x, others = other_sizes(**arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and tells of every check
        torch.jit.trace(layer, x).save(tmp_path / "layer.pt")
        traced = torch.jit.load(tmp_path / "layer.pt")
        for other in others:
            assert_same(traced(other), layer(other))


def test_torch_func():
    """Gradients of each example at once."""
    layer = moved(ConvSTN2d(2, 3, 3, sampler="grid_sample"))
    parameters, x = dict(layer.named_parameters()), torch.randn(4, 2, 6, 5)

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (image,))[0].square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    loss(parameters, x).backward()
    for name, parameter in parameters.items():
        assert torch.allclose(each[name].sum(dim=0), parameter.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("sampler", ["auto", "loops"])
@pytest.mark.parametrize("way", [torch.func.vmap, torch.func.grad, torch.func.jacrev])
def test_the_loops_say_that_they_are_not_for_torch_func(sampler, way):
    layer, x = ConvSTN2d(2, 3, 3, sampler=sampler), torch.randn(4, 2, 6, 5)
    with pytest.raises(RuntimeError, match=r"not for torch\.func; use sampler='grid_sample'"):
        way(lambda x: layer(x)[0].sum())(x)


@pytest.mark.parametrize(
    "window", [Window(3), Window(4), Window(1), Window(3, 2, 1, 2), Window(2, 1, 1, 3)]
)
def test_localization_network(window):
    network = LocalizationNetwork(3, window, hidden_channels=5)
    x = torch.randn(2, 3, 8, 7)
    theta = network(x)
    assert theta.shape == (2, *window.output_size((8, 7)), 2, 3)
    assert torch.equal(theta, torch.eye(2, 3).expand_as(theta)), "starts at the identity"
    theta.square().sum().backward()
    assert network.regress.weight.grad.abs().sum() > 0, "but can leave it"
    assert network.regress.bias is None


def test_localization_network_writes_theta_row_by_row():
    network = LocalizationNetwork(1, Window(1), hidden_channels=1)
    with torch.no_grad():
        network.read.weight.fill_(1)
        network.read.bias.fill_(0)
        network.regress.weight.copy_(torch.arange(1.0, 7).view(6, 1, 1, 1))
    theta = network(torch.full((1, 1, 1, 1), 0.5))
    assert theta[0, 0, 0].tolist() == [[1.5, 1.0, 1.5], [2.0, 3.5, 3.0]]


def test_another_localization_network():
    class Shrink(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            theta = torch.eye(2, 3).repeat(len(x), 4, 4, 1, 1)
            theta[..., :2] *= 0.5
            return theta

    torch.manual_seed(2)
    layer, x = ConvSTN2d(2, 3, 3, localization=Shrink()), torch.randn(1, 2, 6, 6)
    features, theta = layer(x)
    assert theta[0, 0, 0].tolist() == [[0.5, 0, 0], [0, 0.5, 0]]
    assert torch.allclose(features.double(), loop_features(layer, x, theta), atol=1e-5)
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_integers_are_refused():
    layer = ConvSTN2d(3, 4, 3)
    for call in (layer, layer.plain):
        with pytest.raises(ValueError, match="expected a floating-point type"):
            call(torch.zeros(1, 3, 5, 5, dtype=torch.uint8))


@EVERY_SAMPLER
def test_a_coarse_theta_is_taken_as_it_is(sampler):
    """In bfloat16, as a localization network under autocast may give it."""
    torch.manual_seed(0)
    layer, x = ConvSTN2d(2, 3, 5, sampler=sampler), torch.randn(1, 2, 30, 30)
    theta = (torch.eye(2, 3) + 0.1 * torch.randn(1, 26, 26, 2, 3)).bfloat16()
    assert torch.allclose(layer(x, theta)[0], layer(x, theta.float())[0], atol=1e-5)


def test_parameters_lie_as_those_of_conv2d_do():
    """What flattens or saves them asks for contiguous memory."""
    layer, conv = ConvSTN2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    assert layer.weight.is_contiguous()
    vector = nn.utils.parameters_to_vector([layer.weight, layer.bias])
    nn.utils.vector_to_parameters(vector, conv.parameters())
    x = torch.randn(1, 3, 8, 8)
    assert torch.allclose(layer(x)[0], conv(x), atol=1e-5)


def test_shapes_are_checked():
    layer = ConvSTN2d(3, 4, 3)
    at_rest = torch.eye(2, 3).repeat(2, 6, 6, 1, 1)

    def function(x: Tensor, theta: Tensor = at_rest) -> Tensor:
        return conv_stn2d(x, theta, layer.weight)

    for shape in [(2, 5, 8, 8), (8, 3, 8), (8, 8), (1, 2, 3, 8, 8)]:
        for call in (layer, layer.plain):
            with pytest.raises(ValueError) as caught:
                call(torch.zeros(shape))
            assert "expected (B, 3, H, W) or (3, H, W)" in str(caught.value)
    with pytest.raises(ValueError, match=r"\(2, 5, 8, 8\), expected \(B, 3, H, W\)"):
        function(torch.zeros(2, 5, 8, 8))
    for shape in [(2, 6, 6, 3, 2), (1, 6, 6, 2, 3), (2, 5, 6, 2, 3), (2, 36, 2, 3)]:
        for call in (layer, function):
            with pytest.raises(ValueError) as caught:
                call(torch.zeros(2, 3, 8, 8), torch.zeros(shape))
            assert str(shape) in str(caught.value)
            assert "expected (2, 6, 6, 2, 3)" in str(caught.value)
    for call in (layer, function):
        with pytest.raises(ValueError, match="3 cells does not fit a map of 2x8 cells"):
            call(torch.zeros(2, 3, 2, 8))
    with pytest.raises(ValueError, match="kernel_size=1"):
        conv_stn2d(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, 2, 3), torch.zeros(4, 3, 1, 1))
    with pytest.raises(ValueError, match=r"'cubic'.*auto.*grid_sample"):
        ConvSTN2d(3, 4, 3, sampler="cubic")
    with pytest.raises(ValueError, match=r"'cubic'.*auto.*grid_sample"):
        conv_stn2d(torch.zeros(2, 3, 8, 8), at_rest, layer.weight, sampler="cubic")


def test_the_loops_are_a_cpus():
    layer, x = ConvSTN2d(3, 4, 3, sampler="loops", device="meta"), torch.empty(1, 3, 5, 5)
    with pytest.raises(ValueError, match="'loops' needs a map on a CPU, not on meta"):
        layer(x.to("meta"))


@EVERY_SAMPLER
def test_autocast(device, sampler):
    """Under bfloat16 features lose digits, where to look does not."""
    needs(sampler, device)
    torch.manual_seed(8)
    convolution = nn.Conv2d(3, 16, 1).to(device)
    layer = ConvSTN2d(16, 8, 5, sampler=sampler).to(device)
    nn.init.normal_(layer.localization.regress.weight, std=0.02)
    images = torch.randn(2, 3, 20, 20).to(device)
    with torch.autocast(device, torch.bfloat16):
        maps = convolution(images)
        assert maps.dtype == torch.bfloat16
        features, theta = layer(maps)
    assert features.dtype == torch.bfloat16
    assert theta.dtype == torch.float32
    features.float().square().mean().backward()
    for parameter in [*convolution.parameters(), *layer.parameters()]:
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64])
def test_theta_is_float32_at_least_also_at_rest(kind):
    layer, maps = ConvSTN2d(3, 4, 3).to(kind), torch.randn(2, 3, 6, 6, dtype=kind)
    for features, theta in (layer(maps), layer.plain(maps)):
        assert features.dtype == kind
        assert theta.dtype == torch.promote_types(kind, torch.float32)
        assert torch.equal(theta, torch.eye(2, 3, dtype=theta.dtype).expand(2, 4, 4, 2, 3))


@EVERY_SAMPLER
def test_bfloat16_does_not_move_the_samples(device, sampler):
    """Stripes one cell wide tell to a hundredth of a cell where they are sampled."""
    needs(sampler, device)
    layer = ConvSTN2d(1, 1, 2, sampler=sampler).to(device)
    with torch.no_grad():  # one tap alone is read
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    nn.init.zeros_(layer.bias)
    stripes = (torch.arange(20.0, device=device) % 2).expand(1, 1, 20, 20)
    theta = torch.eye(2, 3, device=device).repeat(1, 19, 19, 1, 1)
    theta[..., 0, 2] = torch.linspace(0, 2, 19)[:, None]  # another x in every row
    expected, _ = layer(stripes, theta)
    with torch.autocast(device, torch.bfloat16):
        features, _ = layer(stripes.bfloat16(), theta)
    assert (features.float() - expected).abs().max() < 0.01


def test_docstring_examples_run():
    results = doctest.testmod(cstn_lib.cstn)
    assert results.attempted >= 6 and results.failed == 0


def test_repr_names_the_arguments():
    layer = ConvSTN2d(3, 4, 5, padding="same", bias=False)
    assert repr(layer).startswith(
        "ConvSTN2d(\n  3, 4, kernel_size=(5, 5), stride=(1, 1), padding='same', dilation=(1, 1), "
        "bias=False, sampler='auto'"
    )
