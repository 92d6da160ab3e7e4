"""`ConvSTN2d`: an ordinary convolution at the identity, a slow loop elsewhere, and its samplers."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import cstn_lib.cstn
from cstn_lib.cstn import SAMPLERS, ConvSTN2d, LocalizationNetwork
from cstn_lib.geometry import Window, sampling_points

EVERY_SAMPLER = pytest.mark.parametrize("sampler", ["auto", *SAMPLERS])


@st.composite
def cases(draw: st.DrawFn) -> dict:
    """Arguments of a layer and a map that its window fits, down to sides of one cell."""
    k, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 3))
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


def build(case: dict, sampler: str = "auto") -> tuple[ConvSTN2d, nn.Conv2d, Tensor]:
    """The layer, the ordinary convolution with the same parameters, and an input."""
    torch.manual_seed(case["seed"])
    layer = ConvSTN2d(**case["layer"], localization_channels=2, sampler=sampler)
    conv = nn.Conv2d(**case["layer"])
    conv.load_state_dict(
        {name: p for name, p in layer.state_dict().items() if name in ("weight", "bias")}
    )
    return layer, conv, torch.randn(case["batch"], case["layer"]["in_channels"], *case["size"])


def random_theta(layer: ConvSTN2d, x: Tensor, spread: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    height, width = layer.window.output_size((x.shape[2], x.shape[3]))
    noise = torch.randn(len(x), height, width, 2, 3, generator=generator, dtype=torch.float64)
    return (torch.eye(2, 3) + spread * noise).to(x.dtype)


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
                        u, v = (2 * n / (k - 1) - 1, 2 * m / (k - 1) - 1) if k > 1 else (0, 0)
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
def test_identity_is_the_ordinary_convolution(sampler, case):
    layer, conv, x = build(case, sampler)
    expected = conv(x)
    for features, theta in (layer(x), layer.plain(x)):
        assert features.shape == expected.shape
        assert torch.allclose(features, expected, atol=1e-5)
        assert theta.shape == (len(x), *expected.shape[2:], 2, 3)
        assert torch.equal(theta, torch.eye(2, 3).expand_as(theta))


@EVERY_SAMPLER
def test_identity_has_the_gradients_of_the_ordinary_convolution(sampler):
    case = {
        "layer": {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "padding": 1},
        "size": (6, 5),
        "batch": 2,
        "seed": 1,
    }
    layer, conv, x = build(case, sampler)
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
    ({"kernel_size": 1}, (2, 3)),
    ({"kernel_size": 3, "padding": 1}, (1, 4)),
]


@EVERY_SAMPLER
@pytest.mark.parametrize(("arguments", "size"), LOOP_CASES)
@pytest.mark.parametrize("spread", [0.3, 2.0], ids=["near", "far outside"])
def test_given_theta_against_a_loop(sampler, arguments, size, spread):
    torch.manual_seed(5)
    layer = ConvSTN2d(2, 3, **arguments, sampler=sampler)
    x = torch.randn(2, 2, *size)
    theta = random_theta(layer, x, spread)
    features, returned = layer(x, theta)
    assert returned is theta
    assert torch.allclose(features.double(), loop_features(layer, x, theta), atol=1e-5)


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


def values_and_gradients(sampler: str, dtype: torch.dtype, spread: float) -> list[Tensor]:
    torch.manual_seed(11)
    layer = ConvSTN2d(5, 4, 3, padding=1, sampler=sampler).to(dtype)
    x = torch.randn(2, 5, 6, 7, dtype=dtype, requires_grad=True)
    theta = random_theta(layer, x, spread, seed=12).requires_grad_()
    features, _ = layer(x, theta)
    seed = torch.randn(features.shape, generator=torch.Generator().manual_seed(13)).to(dtype)
    gradients = torch.autograd.grad((features * seed).sum(), [x, theta, *layer.parameters()][:4])
    return [features, *gradients]


@pytest.mark.parametrize("spread", [0.2, 1.5], ids=["near", "far outside"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_samplers_agree(dtype, tolerance, spread):
    reference, *others = (values_and_gradients(name, dtype, spread) for name in SAMPLERS)
    assert len(others) >= 1
    for other in others:
        for a, b in zip(reference, other, strict=True):
            assert a.dtype == b.dtype == dtype
            scale = max(1.0, a.abs().max().item())
            assert (a - b).abs().max().item() < tolerance * scale


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(max_examples=30, deadline=None)
@given(case=cases())
def test_samplers_agree_with_grid_sample_on_any_window(sampler, case):
    layer, _, x = build(case, sampler)
    other, _, _ = build(case, "grid_sample")
    theta = random_theta(layer, x, 0.5, seed=case["seed"])
    assert torch.allclose(layer(x, theta)[0], other(x, theta)[0], atol=1e-4)


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
    assert torch.autograd.gradcheck(features, [value.requires_grad_() for value in inputs])


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


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_memory_layout_does_not_matter(sampler):
    torch.manual_seed(6)
    layer, x = ConvSTN2d(4, 2, 3, sampler=sampler), torch.randn(2, 4, 6, 5)
    theta = random_theta(layer, x, 0.5)
    expected = layer(x, theta)[0]
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(layer(last, theta)[0], expected, atol=1e-6)
    turned = theta.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.allclose(layer(x, turned)[0], expected, atol=1e-6)


@EVERY_SAMPLER
def test_nan_theta_gives_nan_features(sampler):
    """Where it is, and nowhere else."""
    layer, x = ConvSTN2d(2, 3, 3, sampler=sampler), torch.randn(2, 2, 6, 6)
    theta = random_theta(layer, x, 0.0)
    theta[1, 2, 3, 0, 0] = float("nan")
    missing = layer(x, theta)[0].isnan()
    assert missing.any(dim=1).nonzero().tolist() == [[1, 2, 3]]
    assert missing[1, :, 2, 3].all()


@EVERY_SAMPLER
@pytest.mark.parametrize("shift", [1e3, 1e30])
def test_windows_far_outside_see_zeros(sampler, shift):
    layer, x = ConvSTN2d(2, 3, 3, sampler=sampler), torch.randn(1, 2, 6, 6)
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
    for shape in [(2, 5, 8, 8), (3, 8, 8)]:
        for call in (layer, layer.plain):
            with pytest.raises(ValueError) as caught:
                call(torch.zeros(shape))
            assert str(shape) in str(caught.value)
            assert "expected (B, 3, H, W)" in str(caught.value)
    for shape in [(2, 6, 6, 3, 2), (1, 6, 6, 2, 3), (2, 5, 6, 2, 3), (2, 36, 2, 3)]:
        with pytest.raises(ValueError) as caught:
            layer(torch.zeros(2, 3, 8, 8), torch.zeros(shape))
        assert str(shape) in str(caught.value)
        assert "expected (2, 6, 6, 2, 3)" in str(caught.value)
    with pytest.raises(ValueError, match="3 cells does not fit a map of 2x8 cells"):
        layer(torch.zeros(2, 3, 2, 8))
    with pytest.raises(ValueError, match=r"'cubic'.*auto.*grid_sample"):
        ConvSTN2d(3, 4, 3, sampler="cubic")


@EVERY_SAMPLER
def test_autocast(sampler):
    """Under bfloat16 features lose digits, where to look does not."""
    torch.manual_seed(8)
    convolution = nn.Conv2d(3, 16, 1)
    layer = ConvSTN2d(16, 8, 5, sampler=sampler)
    nn.init.normal_(layer.localization.regress.weight, std=0.02)
    images = torch.randn(2, 3, 20, 20)
    with torch.autocast("cpu", torch.bfloat16):
        maps = convolution(images)
        assert maps.dtype == torch.bfloat16
        features, theta = layer(maps)
    assert features.dtype == torch.bfloat16
    assert theta.dtype == torch.float32
    features.float().square().mean().backward()
    for parameter in [*convolution.parameters(), *layer.parameters()]:
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0


@EVERY_SAMPLER
def test_bfloat16_does_not_move_the_samples(sampler):
    """Stripes one cell wide tell to a hundredth of a cell where they are sampled."""
    layer = ConvSTN2d(1, 1, 2, sampler=sampler)
    with torch.no_grad():  # one tap alone is read
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    nn.init.zeros_(layer.bias)
    stripes = (torch.arange(20.0) % 2).expand(1, 1, 20, 20)
    theta = torch.eye(2, 3).repeat(1, 19, 19, 1, 1)
    theta[..., 0, 2] = torch.linspace(0, 2, 19)[:, None]  # another x in every row
    expected, _ = layer(stripes, theta)
    with torch.autocast("cpu", torch.bfloat16):
        features, _ = layer(stripes.bfloat16(), theta)
    assert (features.float() - expected).abs().max() < 0.01


def test_docstring_example_runs():
    results = doctest.testmod(cstn_lib.cstn)
    assert results.attempted >= 3 and results.failed == 0


def test_repr_names_the_arguments():
    assert repr(ConvSTN2d(3, 4, 5, stride=2, bias=False)).startswith(
        "ConvSTN2d(\n  3, 4, kernel_size=5, stride=2, padding=0, dilation=1, bias=False"
    )
