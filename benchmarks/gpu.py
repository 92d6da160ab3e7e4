"""What `gpu.sh` runs: the system, the layer, the tests and a training, each in its own process.

A stage writes a line of JSON for each thing that it has measured; what it wrote counts even where
it fails or its time is up. The file is replaced after each stage.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from cstn_lib.config import ModelConfig, TrainingConfig
from cstn_lib.cstn import ConvSTN2d
from cstn_lib.data import open_split
from cstn_lib.models import build_model
from cstn_lib.reproduction.bench import (
    LayerCase,
    SystemCase,
    measure_layer,
    measure_system,
    median_seconds,
    ratio_tables,
    system_cases,
)
from cstn_lib.reproduction.experiments import make_experiment
from cstn_lib.reproduction.runs import RunStore
from cstn_lib.support.atomic import atomic_file
from cstn_lib.support.machine import processors, provenance
from cstn_lib.training.engine import supports_bfloat16, tf32

HERE = Path(__file__).resolve().parent
PRECISIONS = {
    "float32": "products of float32 round nothing",
    "tf32": "matrix products and convolutions of float32 round their factors to TF32",
    "bfloat16": "torch.autocast",
}
TESTED = ("test_losses.py", "test_cstn.py", "samplers", "baselines", "training", "test_models.py")


def main() -> None:
    parser = argparse.ArgumentParser(prog="gpu.sh", description="Measure what a GPU makes of it.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--json", type=Path, help="what is written; else gpu.json beside this")
    parser.add_argument("--imagenette", help="its folder or archive: train on it, too")
    parser.add_argument("--stage", choices=("draw", *STAGES), help="this one alone, as JSON lines")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        instead = "--device cpu --tiny --json FILE tries the script without"
        parser.exit(2, f"gpu.sh: no CUDA device is available here; {instead}\n")
    if options.device == "cpu" and options.json is None:
        parser.exit(2, "gpu.sh: --device cpu needs --json FILE, for gpu.json is a GPU's\n")
    if options.stage == "draw":
        draw(options)
    elif options.stage:
        # whatever else is printed, as by pytest, is no row
        rows = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        for row in STAGES[options.stage][0](options):
            print(json.dumps(row), file=rows, flush=True)
    else:
        run_stages(options)


def run_stages(options: argparse.Namespace) -> None:
    started, path = time.perf_counter(), options.json or HERE / "gpu.json"
    result = {**about(options), "stages": {}}
    # one of many processors draws the birds for the training, while the GPU is measured
    drawing = subprocess.Popen(command("draw"), stderr=subprocess.DEVNULL)
    for name, (_, limit) in STAGES.items():
        if name == "training":
            drawing.wait()
        begun = time.perf_counter()
        result[name], outcome = run_stage(name, limit)
        seconds = round(time.perf_counter() - begun, 1)
        result["stages"][name] = {"outcome": outcome, "seconds": seconds, "limit": limit}
        result["seconds"] = round(time.perf_counter() - started, 1)
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {len(result[name])} rows in {seconds} s of {limit}: {outcome}", flush=True)
    show(result)
    print(f"{path}, {result['seconds']} s in all")


def command(stage: str) -> list[str]:
    return [sys.executable, __file__, *sys.argv[1:], "--stage", stage]


def run_stage(name: str, limit: float) -> tuple[list[dict], str]:
    """The rows that a stage has written, and how it ended."""
    with tempfile.TemporaryFile("w+") as rows, tempfile.TemporaryFile("w+") as errors:
        try:
            done = subprocess.run(command(name), stdout=rows, stderr=errors, timeout=limit)
            outcome = "done" if done.returncode == 0 else f"failed with {done.returncode}"
        except subprocess.TimeoutExpired:
            outcome = "stopped at its limit"
        rows.seek(0)
        errors.seek(0)
        if outcome != "done":
            last = errors.read()[-3000:]
            outcome += ": " + (last.strip().splitlines() or ["no message"])[-1]
            print(last, file=sys.stderr, flush=True)
        return [json.loads(line) for line in rows if line.endswith("\n")], outcome


def about(options: argparse.Namespace) -> dict[str, object]:
    gpu = options.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "gigabytes": torch.cuda.get_device_properties(0).total_memory / 1e9 if gpu else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        **provenance("cpu"),
        "processors": processors(),
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "tiny": options.tiny,
        "precisions": PRECISIONS,
    }


def precisions(options: argparse.Namespace) -> list[str]:
    if options.device == "cpu":
        return ["float32"]
    return [p for p in PRECISIONS if p != "bfloat16" or supports_bfloat16("cuda")]


# The stages


def system(options: argparse.Namespace) -> Iterator[dict]:
    """Images per second, plain and with CSTN, and the share of the chip's peak that they need."""
    small, *_, paper = system_cases(options.device)
    most = precisions(options)
    cases = [replace(paper, batch=batch, precision=most[-1]) for batch in (16, 64)]
    cases += [replace(paper, batch=16, precision=precision) for precision in most[:-1]]
    cases += [replace(small, precision=precision) for precision in (most[-1], "float32")]
    if options.tiny:
        cases = [replace(small, batch=2)]
    for case in cases:
        yield measured_system(case, options)


def measured_system(case: SystemCase, options: argparse.Namespace) -> dict:
    row = measure_system(case, options.device, 0.1 if options.tiny else 2.0)
    row["peak_teraflops"] = peak_teraflops(options, case.precision)
    for name in ("plain", "cstn"):
        counted = gigaflops(replace(case.model, head=name), case.image_size)
        for what, gigaflop in zip(("infer", "train"), counted, strict=True):
            row[f"{what}_{name}_gigaflop"] = gigaflop
            reached = row[f"{what}_{name}_ips"] * gigaflop / 1000
            row[f"{what}_{name}_share"] = reached / row["peak_teraflops"]
    return row


def layer(options: argparse.Namespace) -> Iterator[dict]:
    """The layer against cuDNN's convolution, one copy per location, a deformable convolution."""
    cases = [
        LayerCase(channels, size, kernel, batch, precision)
        for channels, batch in ((512, 16), (64, 64))
        for size, kernel in ((10, 7), (20, 13), (20, 5), (20, 3))
        for precision in precisions(options)
    ]
    for case in [LayerCase(4, 8, 3, 2)] if options.tiny else cases:
        row = measure_layer(case, options.device, 0.1 if options.tiny else 0.6)
        row["peak_teraflops"] = peak_teraflops(options, case.precision)
        locations = case.batch * (case.size - case.kernel + 1) ** 2
        teraflop = 2e-12 * locations * (case.channels * case.kernel) ** 2
        for way in ("conv", "convstn"):
            row[f"{way}_share"] = 3 * teraflop / row[f"{way}_s"] / row["peak_teraflops"]
            forward = teraflop / row[f"{way}_forward_s"]
            row[f"{way}_forward_share"] = forward / row["peak_teraflops"]
        yield row


def tests(options: argparse.Namespace) -> Iterator[dict]:
    """The tests that compute on the device, file by file."""
    import pytest

    class Outcomes:
        def __init__(self) -> None:
            self.counts = {"passed": 0, "failed": 0, "skipped": 0}
            self.failures: dict[str, str] = {}

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" or not report.passed:
                self.counts[report.outcome] += 1
            if report.failed:
                self.failures[report.nodeid] = report.longreprtext[-600:]

    for name in TESTED[:1] if options.tiny else TESTED:
        outcomes, begun = Outcomes(), time.perf_counter()
        where = str(HERE.parent / "tests" / name)
        status = pytest.main([where, "-m", options.device, "-p", "no:cacheprovider"], [outcomes])
        yield {
            "tests": name,
            "status": status.name,
            **outcomes.counts,
            "seconds": round(time.perf_counter() - begun, 1),
            "failures": outcomes.failures,
        }


def training(options: argparse.Namespace) -> Iterator[dict]:
    """The same training of the embedded birds on the GPU and on this machine's processor."""
    wanted = [("birds-cub", None, options.device, p) for p in ("float32", precisions(options)[-1])]
    if options.device == "cuda":
        wanted.append(("birds-cub", None, "cpu", "float32"))
    if options.imagenette:
        photos = options.imagenette, options.device, precisions(options)[-1]
        wanted.append(("imagenette", *photos))
    for dataset, root, device, precision in dict.fromkeys(wanted):
        warm_up(device)
        experiment = make_experiment("cstn", dataset, profile(options), precision=precision)
        with tempfile.TemporaryDirectory() as folder:
            run = RunStore(folder, root, device).run(experiment)
            history, seconds = run.history, run.facts["training_seconds"]
        last = history.filter(like="val_").iloc[-1].to_dict()
        yield {
            "dataset": dataset,
            "device": device,
            "precision": precision,
            "training_seconds": seconds,
            "epoch_seconds": history["seconds"].tolist(),
            **last,
        }


STAGES = {
    "system": (system, 120),
    "layer": (layer, 100),
    "tests": (tests, 120),
    "training": (training, 110),
}
"""By name, the most valuable first: what runs, and the seconds that it may take."""


def draw(options: argparse.Namespace) -> None:
    """The images that `training` reads."""
    experiment = make_experiment("cstn", "birds-cub", profile(options))
    for split in ("train", "val"):
        open_split(experiment.data, split)


def profile(options: argparse.Namespace) -> str:
    return "smoke" if options.tiny else "quick"


def warm_up(device: str) -> None:
    """Compile the loops of a CPU, start a GPU's libraries: no part of a training's time."""
    layer, x = ConvSTN2d(4, 4, 3).to(device), torch.rand(2, 4, 8, 8, device=device)
    layer(x)[0].sum().backward()


@cache
def gigaflops(model: ModelConfig, image_size: int) -> tuple[float, float]:
    """Operations of one image, in 1e9: of a forward pass; of that and a backward pass.

    Those of convolutions and matrix products alone, as `torch.utils.flop_counter` counts them; a
    multiplication and an addition are two. Sampling is not among them.
    """
    network = build_model(model).to("meta").train()  # shapes alone: nothing is computed
    images = torch.empty(1, 3, image_size, image_size, dtype=torch.uint8, device="meta")
    labels = torch.empty(1, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter:
        output = network(images)
        forward = counter.get_total_flops()
        network.losses(output, labels, TrainingConfig())["loss"].backward()
        return forward / 1e9, counter.get_total_flops() / 1e9


_peaks: dict[str, float] = {}


def peak_teraflops(options: argparse.Namespace, precision: str) -> float:
    """What this chip reaches in a product of two large square matrices, in 1e12 a second."""
    if precision not in _peaks:
        side = 256 if options.tiny else 8192
        kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a, b = (torch.randn(side, side, device=options.device).to(kind) for _ in range(2))
        with tf32(precision == "tf32"):
            seconds = median_seconds({"a": lambda: a @ b}, options.device, 0.5)["a"]
        _peaks[precision] = 2e-12 * side**3 / seconds
    return _peaks[precision]


def show(result: dict) -> None:
    if result["layer"] and result["system"]:
        for table in ratio_tables(result):
            print(f"\n{table.to_string()}")
        for name in ("layer", "system"):
            table = pd.DataFrame(result[name])
            print(f"\n{table.filter(regex='precision|batch|share|peak').round(3).to_string()}")
    for name in ("tests", "training"):
        table = pd.DataFrame(result[name]).drop(columns="failures", errors="ignore")
        print(f"\n{table.to_string()}")
    for test, why in ((t, why) for row in result["tests"] for t, why in row["failures"].items()):
        print(f"\n{test}\n{why}")


if __name__ == "__main__":
    main()
