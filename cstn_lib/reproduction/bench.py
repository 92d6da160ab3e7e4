"""How fast the layer and the whole system are: the tables of ``benchmarks/`` and ``cstn bench``.

The layer f' = conv(f, theta), for a given theta, is set against

* ``conv``: `torch.nn.functional.conv2d` of the same size, the least that it could cost;
* ``copies``: one `grid_sample` over a copy of the map for each location, the authors' way;
* ``deform``: `torchvision.ops.deform_conv2d` with the offsets that theta stands for.

The system is set against itself with ordinary convolutions in the layer's place. The contestants of
a row take turns, so that whatever else the machine does slows all of them down. Times are medians,
forward and backward where nothing else is said.

Precisions: ``float32`` rounds no factor of a product; ``tf32``, on a GPU, rounds those of matrix
products and of convolutions alike to 10 bits; ``bfloat16`` is autocast, as in training.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import deform_conv2d

from cstn_lib.config import ModelConfig, TrainingConfig
from cstn_lib.cstn import ConvSTN2d
from cstn_lib.evaluation.choosing import fused
from cstn_lib.evaluation.views import describe_views
from cstn_lib.geometry import Window, identity_theta, sampling_points
from cstn_lib.models import build_model
from cstn_lib.outputs import LocalizerOutput
from cstn_lib.reproduction.experiments import RECIPES, make_experiment
from cstn_lib.support.progress import Progress
from cstn_lib.training.engine import autocast, supports_bfloat16, tf32


@dataclass(frozen=True)
class LayerCase:
    """One row of the layer's table: K x K windows on a map of size x size cells."""

    channels: int
    size: int
    kernel: int
    batch: int
    precision: str = "float32"


@dataclass(frozen=True)
class SystemCase:
    """One row of the system's table."""

    name: str
    model: ModelConfig
    image_size: int
    batch: int
    precision: str = "float32"


LAYERS = tuple(
    LayerCase(channels, size, kernel, batch)
    for channels, batch in ((64, 16), (256, 8), (512, 4))
    for size, kernel in ((20, 3), (20, 5), (10, 7), (20, 13))
)


def system_cases(device: str) -> list[SystemCase]:
    """The small network of the profiles, in both precisions, and the paper's at 320 x 320."""
    small = replace(make_experiment("cstn", "birds-cub", "quick").model, num_classes=24)
    published = RECIPES["paper, CUB-200-2011"]
    paper = replace(published.model, num_classes=200, weights="none")
    side, batch = published.image_size, 16 if device == "cuda" else 2
    precisions = ["float32", "bfloat16"] if supports_bfloat16(device) else ["float32"]
    cases = [SystemCase("small", small, 80, 64, precision) for precision in precisions]
    return [*cases, SystemCase("resnet101", paper, side, batch, precisions[-1])]


def run_benchmarks(
    device: str,
    layers: Sequence[LayerCase] = LAYERS,
    systems: Sequence[SystemCase] | None = None,
    seconds: float = 3.0,
) -> dict[str, object]:
    """Both tables, as ``cstn bench --json`` writes them.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        systems: by default those of `system_cases`.
        seconds: about how long each row's rounds take; three rounds at least.
    """
    systems = system_cases(device) if systems is None else systems
    return {
        "layer": [measure_layer(case, device, seconds) for case in Progress(layers, desc="layer")],
        "system": [
            measure_system(case, device, seconds) for case in Progress(systems, desc="system")
        ],
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def ratio_tables(result: dict[str, list[dict]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of `run_benchmarks` as people read them: ratios first.

    Returns:
        the layer: times as multiples of ``conv``'s, speed-ups and memory as multiples of ours;
        the system: images per second with CSTN as a share of those with plain convolutions, and
        the time of choosing a box, and of three views with it, in that of one pass of the network.
    """
    layer, system = pd.DataFrame(result["layer"]), pd.DataFrame(result["system"])
    shapes = [
        f"C={c.channels} {c.size}x{c.size} K={c.kernel} {c.precision}" for c in layer.itertuples()
    ]
    ratios = pd.DataFrame(
        {
            "CSTN / conv": layer["convstn_s"] / layer["conv_s"],
            "forward only": layer["convstn_forward_s"] / layer["conv_forward_s"],
            "copies / CSTN": layer["copies_s"] / layer["convstn_s"],
            "deform / CSTN": layer["deform_s"] / layer["convstn_s"],
            "memory copies / CSTN": layer["copies_peak_mb"] / layer["convstn_peak_mb"],
            "CSTN [ms]": 1000 * layer["convstn_s"],
            "CSTN peak [MB]": layer["convstn_peak_mb"],
        }
    )
    shares = pd.DataFrame(
        {
            "train CSTN / plain": system["train_cstn_ips"] / system["train_plain_ips"],
            "infer CSTN / plain": system["infer_cstn_ips"] / system["infer_plain_ips"],
            "train CSTN [images/s]": system["train_cstn_ips"],
            "infer CSTN [images/s]": system["infer_cstn_ips"],
            "fused box / network": system["infer_cstn_ips"] / system["infer_fused_ips"],
            "three views / network": system["infer_cstn_ips"] / system["infer_views_ips"],
        }
    )
    names = system["model"] + " x" + system["batch"].astype(str) + " " + system["precision"]
    ratios.index, shares.index = pd.Index(shapes, name="layer"), pd.Index(names, name="system")
    return ratios.round(2), shares.round(2)


def measure_layer(case: LayerCase, device: str, seconds: float) -> dict[str, float | str]:
    """One row: seconds of each contestant, and megabytes at the peak of two of them."""
    torch.manual_seed(0)
    kind = torch.bfloat16 if case.precision == "bfloat16" else torch.float32
    # as the convolution is fastest
    lying = torch.channels_last if device == "cuda" else torch.contiguous_format
    layer = ConvSTN2d(case.channels, case.channels, case.kernel, bias=False)
    layer.to(device=device, memory_format=torch.channels_last)
    weight = layer.weight.detach().contiguous(memory_format=lying).requires_grad_()
    size = (case.size, case.size)
    features = torch.randn(case.batch, case.channels, *size, device=device, dtype=kind)
    features = features.contiguous(memory_format=lying).requires_grad_()
    h, w = layer.window.output_size(size)
    theta = torch.eye(2, 3, device=device).repeat(case.batch, h, w, 1, 1)
    theta = (theta + 0.1 * torch.randn_like(theta)).requires_grad_()
    gradient = torch.randn(case.batch, case.channels, h, w, device=device, dtype=kind)
    ways: dict[str, Callable[[], Tensor]] = {
        "conv": lambda: F.conv2d(features, weight),
        "convstn": lambda: layer(features, theta)[0],
        "copies": lambda: by_copies(features, theta, layer.window, weight),
        "deform": lambda: by_deform(features, theta, layer.window, weight),
    }
    inputs = [features, theta, weight, layer.weight]

    def run(way: str) -> Tensor:
        with autocast(features.device, case.precision):
            return ways[way]()

    def step(way: str) -> None:
        run(way).backward(gradient)
        for tensor in inputs:  # its gradients are the step's own memory, not the next one's
            tensor.grad = None

    with tf32(case.precision == "tf32"):
        both = median_seconds({way: partial(step, way) for way in ways}, device, seconds)
        with torch.no_grad():
            two = {way: partial(run, way) for way in ("conv", "convstn")}
            forward = median_seconds(two, device, seconds / 4)
        peaks = {way: peak_megabytes(partial(step, way), device) for way in ("convstn", "copies")}
    return {
        **asdict(case),
        **{f"{way}_s": value for way, value in both.items()},
        **{f"{way}_forward_s": value for way, value in forward.items()},
        **{f"{way}_peak_mb": value for way, value in peaks.items()},
    }


def by_copies(features: Tensor, theta: Tensor, window: Window, weight: Tensor) -> Tensor:
    """conv(f, theta) the plain way: copy the map for every location, then sample each copy once."""
    height, width = features.shape[2:]
    h, w = theta.shape[1:3]
    points = sampling_points(theta, window, (height, width)).flatten(0, 1)  # (B * L, T, 2)
    size = points.new_tensor([width, height])
    grid = ((2 * points + 1) / size - 1).unsqueeze(1)
    copies = features.repeat_interleave(h * w, dim=0)  # (B * L, C, H, W)
    values = F.grid_sample(copies, grid, align_corners=False)  # (B * L, C, 1, T)
    result = values.flatten(1) @ weight.flatten(1).T
    return result.view(len(features), h, w, -1).permute(0, 3, 1, 2)


def by_deform(features: Tensor, theta: Tensor, window: Window, weight: Tensor) -> Tensor:
    """conv(f, theta) by the deformable convolution whose offsets are those of theta."""
    size = (features.shape[2], features.shape[3])
    at_rest = identity_theta(theta).expand_as(theta)
    moved = sampling_points(theta, window, size) - sampling_points(at_rest, window, size)
    offsets = moved.flip(-1).flatten(2).transpose(1, 2)  # (B, 2 T, L), y before x
    offsets = offsets.unflatten(2, theta.shape[1:3]).contiguous()
    # it computes in float32 alone
    return deform_conv2d(features.to(offsets.dtype), offsets, weight).to(features.dtype)


def measure_system(case: SystemCase, device: str, seconds: float) -> dict[str, float | str]:
    """One row: images per second of training and of inference, plain and with CSTN.

    On a GPU also the megabytes at the peak of a training step, beyond network and optimizer.
    ``infer_fused_ips`` is choosing a box (`cstn_lib.evaluation.choosing.fused`) alone, of CSTN's
    votes that are there already; ``infer_views_ips`` all of `cstn_lib.evaluation.views`, which runs
    CSTN three times.
    """
    shape = (case.batch, 3, case.image_size, case.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, case.model.num_classes, (case.batch,), device=device)
    training = TrainingConfig(lambda_theta=1e-4, alpha_scale=0.5)

    def forward(model: nn.Module, images: Tensor = images) -> LocalizerOutput:
        model.eval()
        with torch.inference_mode(), autocast(images.device, case.precision):
            return model(images)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model.train()
        with autocast(images.device, case.precision):
            output = model(images)
        model.losses(output, labels, training)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    train, infer = {}, {}
    for name in ("plain", "cstn"):
        torch.manual_seed(0)
        model = build_model(replace(case.model, head=name))
        model.to(device=device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
        train[name], infer[name] = partial(step, model, optimizer), partial(forward, model)
    said = infer["cstn"]()
    rows = torch.arange(case.batch, device=device)
    infer["fused"] = partial(fused, said.log_joint[rows, labels], said.boxes)
    infer["views"] = partial(describe_views, infer["cstn"], images, labels)
    row = {"model": case.name, "image_size": case.image_size, "batch": case.batch}
    row["precision"] = case.precision
    with tf32(case.precision == "tf32"):
        for what, runs in (("train", train), ("infer", infer)):
            times = median_seconds(runs, device, seconds)
            row |= {f"{what}_{name}_ips": case.batch / value for name, value in times.items()}
        if device == "cuda":
            row |= {f"{name}_peak_mb": peak_megabytes(run, device) for name, run in train.items()}
    return row


def median_seconds(
    contestants: dict[str, Callable[[], object]], device: str, seconds: float
) -> dict[str, float]:
    """Median time of each contestant over rounds in which each has a turn.

    A turn is one run; on a GPU, which is given work faster than it does it, as many as take it 10
    milliseconds, so that it never waits for the first.
    """

    def turn(run: Callable[[], object], count: int) -> float:
        synchronize()
        begun = time.perf_counter()
        for _ in range(count):
            run()
        synchronize()
        return (time.perf_counter() - begun) / count

    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    for run in contestants.values():  # warm: caches, compiled code, chosen algorithms
        run()
    counts = dict.fromkeys(contestants, 1)
    if device == "cuda":
        counts = {name: int(0.01 / turn(run, 3)) + 1 for name, run in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    started = time.perf_counter()
    while min(map(len, times.values())) < 3 or time.perf_counter() - started < seconds:
        for name, run in contestants.items():
            times[name].append(turn(run, counts[name]))
    return {name: float(np.median(values)) for name, values in times.items()}


def peak_megabytes(run: Callable[[], object], device: str) -> float:
    """The most memory that torch held during a run beyond what it held before, in 1e6 bytes.

    Args:
        run: leaves behind as much memory as it finds.
    """
    run()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    # the profiler tells on stderr when it starts and stops, and that there is no GPU
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    memory = [e for e in events if e.get("name") == "[memory]"]
    memory = [e["args"] for e in sorted(memory, key=lambda e: e["ts"])]
    if not memory:
        return 0.0
    # the profiler goes on counting from where its last record ended
    before = memory[0]["Total Allocated"] - memory[0]["Bytes"]
    return (max(e["Total Allocated"] for e in memory) - before) / 1e6
