"""The complete system: shapes, gradients, freezing, and where its weights come from."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from cstn_lib.backbones import BACKBONES, small_backbone
from cstn_lib.config import LevelConfig, ModelConfig, TrainingConfig
from cstn_lib.cstn import ConvSTN2d
from cstn_lib.geometry import Window, boxes_of_theta, default_boxes
from cstn_lib.losses import total_loss
from cstn_lib.models import build_model
from cstn_lib.outputs import LocalizerOutput, ScoreMapOutput
from cstn_lib.pyramid import CSTNLocalizer, PyramidLocalizer
from cstn_lib.support.errors import InputError

LEVELS = (LevelConfig("4", 5, dilation=2), LevelConfig("5", 7))
SMALL = ModelConfig(
    num_classes=6,
    weights="none",
    levels=LEVELS,
    channels=16,
    localization_channels=8,
)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


def images(batch: int = 2, size: int = 80) -> Tensor:
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)


def move_windows(model: CSTNLocalizer) -> None:
    """Away from the identity at which every network starts."""
    for layer in model.layers.values():
        nn.init.normal_(layer.localization.regress.weight, std=0.05)


def input_error(config: ModelConfig) -> str:
    with pytest.raises(InputError) as caught:
        build_model(config)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# The network


def test_a_levels_window_takes_its_arguments_in_the_order_of_a_convolution():
    assert LevelConfig("4", 5, 3, 2).window == Window(5, 3, 0, 2)


@pytest.mark.parametrize(
    ("head", "pyramid"),
    [("cstn", "lateral"), *product(["cstn", "plain", "deform", "cam", "acol", "spg"], ["fpn"])],
)
def test_a_network_is_exported_whole_for_any_batch_and_size(head, pyramid):
    model = build_model(replace(SMALL, head=head, pyramid=pyramid)).eval()
    if head == "cstn":
        move_windows(model)
    any_size = {axis: torch.export.Dim.AUTO for axis in (0, 2, 3)}
    exported = torch.export.export(model, (images(),), dynamic_shapes={"images": any_size})
    other = images(3, 112)[..., :96]
    found, expected = exported.module()(other), model(other)
    assert type(found) is type(expected)
    found, expected = vars(found), vars(expected)
    assert found.pop("level_names", None) == expected.pop("level_names", None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("levels", "sizes"),
    [
        (LEVELS, [(12, 12), (4, 4)]),
        (LEVELS[:1], [(12, 12)]),
        (LEVELS[1:], [(4, 4)]),
    ],
    ids=["both", "level 4", "level 5"],
)
@pytest.mark.parametrize("head", ["cstn", "plain"])
@pytest.mark.parametrize("pyramid", ["fpn", "lateral"])
def test_shapes(levels, sizes, head, pyramid):
    model = build_model(replace(SMALL, levels=levels, head=head, pyramid=pyramid)).eval()
    output = model(images())
    locations = sum(h * w for h, w in sizes)
    assert isinstance(model, PyramidLocalizer)
    assert [score.shape for score in output.scores] == [(2, 6, *size) for size in sizes]
    assert output.sizes == sizes
    assert output.boxes.shape == (2, locations, 4)
    assert output.default_boxes.shape == (locations, 4)
    assert output.log_joint.shape == (2, 6, locations)
    assert output.log_joint.exp().sum(dim=(1, 2)).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert [theta.shape for theta in output.thetas] == (
        [(2, *size, 2, 3) for size in sizes] if head == "cstn" else []
    )


def test_maps_are_those_of_the_paper():
    """80 pixels give the small backbone the 20 x 20 and 10 x 10 cells that 320 give a ResNet."""
    for backbone, size in (("small", 80), ("small-pooled", 80), ("resnet18", 320)):
        model = build_model(replace(SMALL, backbone=backbone)).backbone
        with torch.inference_mode():
            maps = model(torch.zeros(1, 3, size, size))
        assert {name: tuple(m.shape[1:]) for name, m in maps.items()} == {
            "4": (model.widths["4"], 20, 20),
            "5": (model.widths["5"], 10, 10),
        }


def test_lateral_maps_are_one_convolution_of_the_backbones():
    model = build_model(replace(SMALL, pyramid="lateral")).eval()
    pictures = images()
    maps = model.maps(pictures)
    assert list(maps) == ["4", "5"]
    for name, stage in model.backbone(model.normalize(pictures)).items():
        kernel, bias = model.pyramid[name].weight, model.pyramid[name].bias
        assert kernel.shape == (16, model.backbone.widths[name], 1, 1)
        expected = torch.einsum("bchw,dc->bdhw", stage, kernel[..., 0, 0]) + bias[:, None, None]
        assert torch.allclose(maps[name], expected, atol=1e-4)
    (alone,) = build_model(replace(SMALL, pyramid="lateral", levels=LEVELS[1:])).pyramid
    assert alone == "5", "a level that does not vote has no convolution"


def test_the_papers_maps_come_from_both_stages():
    """A 3x3 convolution on the last map, 1x1 on both, the top added to the finer, 3x3 on both."""
    model = build_model(SMALL).eval()
    pictures = images()
    stages = model.backbone(model.normalize(pictures))
    inner, smooth = model.pyramid.inner_blocks, model.pyramid.layer_blocks
    top = inner[1](model.extra_conv(stages["5"]))
    fine = inner[0](stages["4"]) + nn.functional.interpolate(top, scale_factor=2.0)
    maps = model.maps(pictures)
    assert list(maps) == ["4", "5"]
    assert torch.allclose(maps["4"], smooth[0](fine), atol=1e-4)
    assert torch.allclose(maps["5"], smooth[1](top), atol=1e-4)


def test_the_windows_look_at_the_maps():
    model = build_model(replace(SMALL, pyramid="lateral", head="plain")).eval()
    pictures = images()
    maps, output = model.maps(pictures), model(pictures)
    for level, score in zip(LEVELS, output.scores, strict=True):
        windowed = model.layers[level.name](maps[level.name])
        assert torch.allclose(score, model.classifier(windowed.relu()), atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "pyramid", "sides"),
    [
        ("small-pooled", "lateral", {"4": 15, "5": 19}),
        ("small", "lateral", {"4": 15, "5": 39}),
        ("small", "fpn", {"4": 63, "5": 71}),
    ],
)
def test_what_a_cell_sees(backbone, pyramid, sides):
    """Laterally it keeps the receptive field of its stage, in pixels of a side."""
    model = build_model(replace(SMALL, backbone=backbone, pyramid=pyramid)).eval()
    pictures = torch.rand(1, 3, 160, 160, requires_grad=True)
    for name, cells in model.maps(pictures).items():
        middle = cells.shape[2] // 2
        (seen,) = torch.autograd.grad(cells[..., middle, middle].sum(), pictures, retain_graph=True)
        columns = seen.abs().sum(dim=(0, 1, 2)).nonzero()
        side = int(columns.max() - columns.min()) + 1
        assert side == sides[name]


def test_unknown_pyramid():
    message = input_error(replace(SMALL, pyramid="bifpn"))
    assert message == "unknown pyramid 'bifpn': expected one of fpn, lateral"


def test_boxes_are_those_of_theta():
    model = build_model(SMALL).eval()
    move_windows(model)
    output = model(images())
    boxes, defaults = [], []
    for level, theta, cells in zip(LEVELS, output.thetas, (20, 10), strict=True):
        window = Window(level.kernel_size, dilation=level.dilation)
        boxes.append(boxes_of_theta(theta, window, (cells, cells)).flatten(1, 2))
        defaults.append(default_boxes(window, (cells, cells)).flatten(0, 1))
    assert torch.allclose(output.boxes, torch.cat(boxes, 1))
    assert torch.allclose(output.default_boxes, torch.cat(defaults))
    assert not torch.allclose(output.boxes, output.default_boxes, atol=1e-3)


def test_the_losses_read_no_boxes():
    """The supervision is weak; the gradient that boxes carry is for self-training."""
    model = build_model(SMALL)
    move_windows(model)
    output, labels = model(images()), torch.zeros(len(images()), dtype=torch.int64)
    assert output.boxes.requires_grad
    unread = replace(output, boxes=output.boxes * float("nan"))
    config = TrainingConfig(lambda_theta=0.1, alpha_scale=0.5, level_weight=1.0)
    losses = [model.losses(one, labels, config)["loss"] for one in (output, unread)]
    assert losses[0].isfinite() and losses[0] == losses[1]


def test_starts_at_the_identity():
    model = build_model(SMALL).eval()
    pictures = images()
    output, plain = model(pictures), model(pictures, transform=False)
    assert torch.equal(output.boxes, output.default_boxes.expand_as(output.boxes))
    for a, b in zip(output.scores, plain.scores, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_transform_false_keeps_theta_at_the_identity():
    model = build_model(SMALL).eval()
    move_windows(model)
    output = model(images(), transform=False)
    for theta in output.thetas:
        assert torch.equal(theta, torch.eye(2, 3).expand_as(theta))
    assert torch.equal(output.boxes, output.default_boxes.expand_as(output.boxes))


def test_conv_head_is_the_cstn_without_transform():
    """Table II's other row: the same parameters but the localization networks."""
    model = build_model(SMALL).eval()
    move_windows(model)
    plain = build_model(replace(SMALL, head="plain")).eval()
    assert all(isinstance(layer, nn.Conv2d) for layer in plain.layers.values())
    state = {name: p for name, p in model.state_dict().items() if ".localization." not in name}
    plain.load_state_dict(state)
    pictures = images()
    for a, b in zip(plain(pictures).scores, model(pictures, transform=False).scores, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert plain.localization_parameters() == []


HEADS = ("acol", "adl", "cam", "cstn", "deform", "has", "plain", "spg", "stn")


def log_probabilities(output: LocalizerOutput | ScoreMapOutput) -> Tensor:
    """What a network says of the class: scores of all locations, or of the image."""
    return output.log_joint if isinstance(output, LocalizerOutput) else output.logits.log_softmax(1)


@pytest.mark.parametrize("head", HEADS)
def test_uint8_and_float_images_agree(head):
    model = build_model(replace(SMALL, head=head)).eval()
    pictures = images()
    a, b = (log_probabilities(model(p)) for p in (pictures, pictures.float() / 255))
    assert torch.allclose(a, b, atol=1e-5)


def test_wider_integers_are_refused():
    """They would be taken for values in [0, 1]."""
    with pytest.raises(ValueError, match=r"torch\.int64, expected uint8"):
        build_model(SMALL)(images(1).long())


def test_images_are_normalized_with_the_statistics_of_imagenet():
    model = build_model(SMALL)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    picture = (mean + 2 * std).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert torch.allclose(model.normalize(picture), torch.full((1, 3, 4, 4), 2.0), atol=1e-5)


def test_localization_parameters_are_those_of_the_localization_networks():
    model = build_model(SMALL)
    found = {id(p) for p in model.localization_parameters()}
    named = {id(p) for name, p in model.named_parameters() if ".localization." in name}
    assert found == named and len(found) == 2 * 3


def test_levels_share_one_classifier():
    model = build_model(SMALL)
    assert model.classifier.weight.shape == (6, 16, 1, 1)
    assert all(isinstance(layer, ConvSTN2d) for layer in model.layers.values())
    with torch.no_grad():
        model.classifier.bias[3] = 100.0
    for score in model(images()).scores:
        assert (score.argmax(dim=1) == 3).all()


def test_bfloat16():
    model = build_model(SMALL)
    move_windows(model)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images())
        assert output.scores[0].dtype == torch.bfloat16
    assert output.log_joint.dtype == output.boxes.dtype == torch.float32
    assert all(theta.dtype == torch.float32 for theta in output.thetas)
    assert output.log_joint.isfinite().all()


# Training


def train_step(model: nn.Module, pictures: Tensor) -> dict[str, Tensor]:
    target = torch.arange(len(pictures)) % model.classifier.out_channels
    output = model(pictures)
    terms = total_loss(
        output.log_joint,
        output.thetas,
        target,
        output.sizes,
        lambda_theta=1e-3,
        alpha_scale=1.0,
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    terms["loss"].backward()
    optimizer.step()
    return terms


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_trained(model: CSTNLocalizer, frozen: int) -> None:
    """Gradients reach every part but the frozen stages and, at the identity, loc's first layer."""
    for name, parameter in model.named_parameters():
        if any(name.startswith(f"backbone.stages.{i}.") for i in range(frozen)):
            assert parameter.grad is None, name
        elif ".localization.read." not in name:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("pyramid", ["fpn", "lateral"])
def test_a_training_step_reaches_every_part(pyramid):
    model = build_model(replace(SMALL, pyramid=pyramid)).train()
    terms = train_step(model, images(4))
    assert all(term.isfinite() for term in terms.values())
    assert_trained(model, frozen=0)
    # the first step moves theta: from the second on its first layer learns too
    model.zero_grad()
    train_step(model, images(4))
    for layer in model.layers.values():
        assert layer.localization.read.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_frozen_stages(frozen):
    model = build_model(replace(SMALL, frozen_stages=frozen))
    model.eval().train()  # as between epochs
    before = [state_of(stage) for stage in model.backbone.stages]
    train_step(model, images(4))
    assert_trained(model, frozen)
    for i, (stage, old) in enumerate(zip(model.backbone.stages, before, strict=True)):
        assert stage.training == (i >= frozen)
        same = {name: torch.equal(value, old[name]) for name, value in stage.state_dict().items()}
        if i < frozen:
            assert all(same.values()), "neither weights nor batch norm's statistics move"
        else:
            assert not any(same.values()), same


# Names


def test_unknown_names():
    assert "'vgg16'" in (message := input_error(replace(SMALL, backbone="vgg16")))
    assert all(name in message for name in BACKBONES)
    message = input_error(replace(SMALL, head="attention"))
    assert "'attention'" in message and ", ".join(HEADS) in message


@pytest.mark.parametrize("names", [(), ("5", "4"), ("4", "4"), ("3",), ("4", "5", "6")])
def test_impossible_levels(names):
    levels = tuple(LevelConfig(name, 3) for name in names)
    message = input_error(replace(SMALL, levels=levels))
    assert "expected some of 4, 5, from the finest to the coarsest" in message
    assert ", ".join(names) in message


# Weights


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """A state that no initialisation gives."""
    generator = torch.Generator().manual_seed(9)
    return {
        name: torch.rand(value.shape, generator=generator) + 0.5
        if value.is_floating_point()
        else value + 7
        for name, value in module.state_dict().items()
    }


def save(state: object, path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def assert_loaded(module: nn.Module, state: dict[str, Tensor]) -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("head", ["cstn", "cam"])
def test_weights_from_a_path(tmp_path: Path, suffix, head):
    state = trained_state(small_backbone())
    path = save(state, tmp_path / f"small{suffix}")
    model = build_model(replace(SMALL, head=head, weights=str(path)))
    assert_loaded(model.backbone, state)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision ResNet's names as the backbone's."""
    stem = {"conv1": "stages.0.0", "bn1": "stages.0.1"}
    stages = {f"layer{i}": f"stages.{i}" for i in range(1, 5)}
    new = {}
    for name, value in state.items():
        first, rest = name.split(".", 1)
        if first != "fc":
            new[f"{(stem | stages)[first]}.{rest}"] = value
    return new


@pytest.mark.parametrize("classifier", [True, False])
def test_resnet_weights_have_the_names_of_torchvision(tmp_path: Path, classifier):
    state = trained_state(torchvision.models.resnet18())
    kept = {name: v for name, v in state.items() if classifier or not name.startswith("fc.")}
    path = save(kept, tmp_path / "resnet18.pth")
    model = build_model(replace(SMALL, backbone="resnet18", weights=str(path)))
    assert_loaded(model.backbone, renamed(state))


def test_weights_older_than_batch_norms_counter(tmp_path: Path):
    """`num_batches_tracked` came with PyTorch 0.4.1; published weights may be without it."""
    state = trained_state(torchvision.models.resnet18())
    old = {name: v for name, v in state.items() if not name.endswith("num_batches_tracked")}
    path = save(old, tmp_path / "resnet18.pth")
    model = build_model(replace(SMALL, backbone="resnet18", weights=str(path)))
    assert torch.equal(model.backbone.stages[0][0].weight, state["conv1.weight"])


def test_pretrain_weights_come_with_the_package():
    a, b = (build_model(replace(SMALL, weights="pretrained")).backbone for _ in range(2))
    assert_loaded(a, b.state_dict())
    trained = [v for name, v in a.state_dict().items() if name.endswith("num_batches_tracked")]
    assert all(counter > 0 for counter in trained)


def test_the_pooled_backbone_is_the_small_one_without_its_last_stage(tmp_path: Path):
    """Level 5 is the mean of 2 x 2 cells of level 4; the stages before have the same weights."""
    small = build_model(replace(SMALL, weights="pretrained")).backbone.eval()
    config = replace(SMALL, backbone="small-pooled", weights="pretrained", frozen_stages=2)
    pooled = build_model(config).backbone.eval()
    assert len(pooled.stages) == len(small.stages) == 4
    assert not list(pooled.stages[3].parameters())
    loaded = small.state_dict()
    kept = {name: v for name, v in loaded.items() if not name.startswith("stages.3.")}
    assert len(kept) < len(loaded) and pooled.state_dict().keys() == kept.keys()
    assert_loaded(pooled, kept)
    pictures = torch.rand(2, 3, 80, 80)
    maps = pooled(pictures)
    assert torch.equal(maps["4"], small(pictures)["4"])
    means = maps["4"].unflatten(3, (10, 2)).unflatten(2, (10, 2)).mean(dim=(3, 5))
    assert torch.allclose(maps["5"], means, atol=1e-6)
    frozen = [all(not p.requires_grad for p in stage.parameters()) for stage in pooled.stages[:3]]
    assert frozen == [True, True, False]
    # its own weights, as a run leaves them, are enough for it
    path = save(trained_state(pooled), tmp_path / "pooled.safetensors")
    assert_loaded(build_model(replace(config, weights=str(path))).backbone, trained_state(pooled))
    message = input_error(replace(SMALL, weights=str(path)))
    assert "stages.3." in message and "absent" in message


@pytest.mark.parametrize(
    ("backbone", "weights"),
    [("resnet18", "pretrained"), ("small", "imagenet"), ("small-pooled", "imagenet")],
)
def test_weights_belong_to_a_backbone(backbone, weights):
    message = input_error(replace(SMALL, backbone=backbone, weights=weights))
    assert repr(weights) in message and "belong to" in message


@pytest.mark.parametrize("weights", ["", "imagenette", "weights.bin"])
def test_weights_that_are_neither_a_name_nor_a_file(weights):
    message = input_error(replace(SMALL, weights=weights))
    assert "expected 'pretrained', 'imagenet', 'none' or the path" in message


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    "damage",
    [
        None,
        lambda raw: b"",
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[10:],
        lambda raw: b"<html>404 Not Found</html>",
    ],
    ids=["absent", "empty", "cut off", "head missing", "a web page"],
)
def test_unreadable_weights(tmp_path: Path, suffix, damage: Callable[[bytes], bytes] | None):
    path = tmp_path / f"small{suffix}"
    if damage:
        save(small_backbone().state_dict(), path)
        path.write_bytes(damage(path.read_bytes()))
    assert str(path) in input_error(replace(SMALL, weights=str(path)))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_noise(tmp_path: Path, suffix):
    path = tmp_path / f"small{suffix}"
    for seed in range(20):
        path.write_bytes(np.random.default_rng(seed).bytes(500))
        assert str(path) in input_error(replace(SMALL, weights=str(path)))


def without(state: dict, name: str) -> dict:
    return {key: value for key, value in state.items() if key != name}


STRANGE: dict[str, Callable[[dict], object]] = {
    "a list": lambda state: [1, 2, 3],
    "a tensor": lambda state: torch.zeros(3),
    "a training checkpoint": lambda state: {"state_dict": state, "epoch": 3},
    "an entry that is no tensor": lambda state: {**state, "epoch": 3},
    "a tensor missing": lambda state: without(state, "stages.0.0.weight"),
    "a tensor too many": lambda state: {**state, "head.weight": torch.zeros(2)},
    "a tensor of another shape": lambda state: {**state, "stages.0.0.weight": torch.zeros(2, 3)},
    "another network": lambda state: torchvision.models.resnet18().state_dict(),
    "names that are numbers": lambda state: {1: torch.zeros(3)},
}


@pytest.mark.parametrize("kind", STRANGE)
def test_weights_that_do_not_fit(tmp_path: Path, kind):
    path = save(STRANGE[kind](small_backbone().state_dict()), tmp_path / "small.pth")
    assert str(path) in input_error(replace(SMALL, weights=str(path)))


def test_the_message_names_the_tensor_and_both_shapes(tmp_path: Path):
    state = small_backbone().state_dict()
    state["stages.0.0.weight"] = torch.zeros(2, 3)
    path = save(state, tmp_path / "small.safetensors")
    message = input_error(replace(SMALL, weights=str(path)))
    assert "stages.0.0.weight is 2x3, the network has 32x3x3x3" in message


# ImageNet weights, without leaving this machine

RESNET18 = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
IMAGENET = replace(SMALL, backbone="resnet18", weights="imagenet")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    "error",
    [URLError("Name or service not known"), TimeoutError("timed out"), ConnectionResetError()],
    ids=["no network", "slow network", "broken network"],
)
def test_imagenet_without_network(empty_cache, monkeypatch: pytest.MonkeyPatch, error):
    def refuse(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    message = input_error(IMAGENET)
    assert RESNET18.url in message
    assert "by hand" in message


@pytest.fixture
def web_folder(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def serve_as_imagenet(web_folder, monkeypatch: pytest.MonkeyPatch, prefix: str = "") -> dict:
    """Publish a ResNet-18 whose name holds the start of its hash, as torchvision's do."""
    folder, address = web_folder
    state = trained_state(torchvision.models.resnet18())
    path = save(state, folder / "made.pth")
    prefix = prefix or hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path = path.rename(folder / f"resnet18-{prefix}.pth")
    monkeypatch.setattr(RESNET18.value, "url", f"{address}/{path.name}")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return state


def test_imagenet_weights_are_downloaded(
    empty_cache: Path, web_folder, monkeypatch: pytest.MonkeyPatch
):
    state = serve_as_imagenet(web_folder, monkeypatch)
    model = build_model(replace(IMAGENET, frozen_stages=2))
    assert_loaded(model.backbone, renamed(state))
    monkeypatch.setattr(torch.hub, "urlopen", None)  # the second time they are at hand
    assert_loaded(build_model(IMAGENET).backbone, renamed(state))


def test_a_damaged_download_is_refused(
    empty_cache: Path, web_folder, monkeypatch: pytest.MonkeyPatch
):
    serve_as_imagenet(web_folder, monkeypatch, prefix="00000000")
    assert RESNET18.url in input_error(IMAGENET)
    assert not list(empty_cache.rglob("*.pth"))


def test_imagenet_weights_that_are_absent(empty_cache, web_folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(RESNET18.value, "url", f"{web_folder[1]}/resnet18-12345678.pth")
    message = input_error(IMAGENET)
    assert RESNET18.url in message and "404" in message


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_forward_pass_is_one_cuda_graph():
    """Nothing in it waits for the GPU."""
    model = build_model(SMALL).eval()
    move_windows(model)
    model.cuda()
    first, second = images().cuda(), images().cuda()
    with torch.no_grad():
        expected = model(second)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = model(first)
        first.copy_(second)
        graph.replay()
    assert torch.allclose(found.log_joint, expected.log_joint, atol=1e-4)
    assert torch.allclose(found.boxes, expected.boxes, atol=1e-4)
