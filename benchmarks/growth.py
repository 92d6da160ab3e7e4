"""How time and memory grow with images, locations and classes: writes growth.csv and growth.svg.

Run from the repository: ``python benchmarks/growth.py``. Training is measured on the small network
(a step of AdamW, float32, one thread), the report on made-up predictions tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import NullFormatter

from cstn_lib.evaluation.boxes import BoxList
from cstn_lib.evaluation.metrics import area_histogram, box_area, evaluate, max_box_acc_v2
from cstn_lib.evaluation.predictions import describe, to_table
from cstn_lib.models import build_model
from cstn_lib.plots import use_style
from cstn_lib.reproduction.bench import median_seconds, peak_megabytes
from cstn_lib.reproduction.experiments import make_experiment

HERE = Path(__file__).parent
BATCHES = (8, 16, 32, 64, 128)
SIDES = (64, 80, 112, 144, 176)  # pixels
CLASSES = (10, 30, 100, 300, 1000)
TABLES = (1_000, 5_000, 10_000, 25_000, 50_000)  # images


def main() -> None:
    torch.set_num_threads(1)  # what grows is the work, not the waiting of threads for each other
    rows = [*training(), *reports()]
    table = pd.DataFrame(rows, columns=["what", "against", "size", "seconds", "megabytes"])
    table.to_csv(HERE / "growth.csv", index=False)
    draw(table)
    print(table.to_string(index=False))


def training() -> Iterator[tuple[str, str, int, float, float]]:
    for batch in BATCHES:
        yield ("training step", "images in a batch", batch, *cost(training_step(batch=batch)))
    for side in SIDES:
        step = training_step(side=side)
        yield ("training step", "locations", locations(side), *cost(step))
    for classes in CLASSES:
        yield ("training step", "classes", classes, *cost(training_step(classes=classes)))


def training_step(batch: int = 16, side: int = 80, classes: int = 24) -> Callable[[], None]:
    torch.manual_seed(0)
    experiment = make_experiment("cstn", "birds-cub", "quick")
    model = build_model(replace(experiment.model, num_classes=classes)).train()
    optimizer = torch.optim.AdamW(model.parameters())
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    labels = torch.randint(0, classes, (batch,))

    def step() -> None:
        model.losses(model(images), labels, experiment.training)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def locations(side: int) -> int:
    experiment = make_experiment("cstn", "birds-cub", "quick")
    model = build_model(replace(experiment.model, num_classes=2)).eval()
    with torch.no_grad():
        return model(torch.zeros(1, 3, side, side, dtype=torch.uint8)).boxes.shape[1]


def cost(step: Callable[[], None]) -> tuple[float, float]:
    return median_seconds({"step": step}, "cpu", 1.0)["step"], peak_megabytes(step, "cpu")


def reports() -> Iterator[tuple[str, str, int, float, float]]:
    """All that tables and figures ask of a predictions table."""
    for images in TABLES:
        table = predictions(images)
        started = time.perf_counter()
        for transform in (False, True):
            evaluate(table, transform=transform)
        max_box_acc_v2(table)
        truth = BoxList.of(table["gt_boxes"].to_numpy())
        right = {"all": np.ones(images, dtype=bool)}
        area_histogram(box_area(truth.boxes[truth.offsets[:-1]]), right)
        seconds = time.perf_counter() - started
        yield "report", "images", images, seconds, table.memory_usage(deep=True).sum() / 1e6


def predictions(images: int) -> pd.DataFrame:
    """The table of an untrained network on noise."""
    torch.manual_seed(0)
    experiment = make_experiment("cstn", "birds-cub", "quick")
    model = build_model(replace(experiment.model, num_classes=24)).eval()
    with torch.no_grad():
        output = model(torch.randint(0, 256, (250, 3, 80, 80), dtype=torch.uint8))
    labels = torch.randint(0, 24, (250,))
    columns = describe(output, labels)
    part = {name: value.numpy() for name, value in columns.items()}
    part = {name: value for name, value in part.items() if value.ndim < 3}
    noise = np.random.default_rng(0)
    part["any_iou"], part["any_default_iou"] = noise.random((2, 250))
    table = to_table({n: np.concatenate([v] * (images // 250)) for n, v in part.items()})
    corners = np.sort(noise.random((images, 2, 2)), axis=1)  # low and high of x and of y
    table["gt_boxes"] = list(corners.reshape(images, 4).astype(np.float32))
    return table


def draw(table: pd.DataFrame) -> None:
    use_style()
    table = table.assign(milliseconds=1000 * table["seconds"])
    panels = list(table.groupby(["what", "against"], sort=False))
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 2.8))
    for axis, ((what, against), part) in zip(axes, panels, strict=True):
        axis.set(title=what, xlabel=against)
        memory = axis.twinx()
        memory.grid(False)
        draw_growth(axis, part, "milliseconds", "o-", "C0")
        draw_growth(memory, part, "megabytes", "s--", "C1")
    figure.savefig(HERE / "growth.svg", metadata={"Date": None})


def draw_growth(axis: plt.Axes, part: pd.DataFrame, name: str, marks: str, color: str) -> None:
    """One quantity, both axes logarithmic, over whole powers of ten."""
    values = part[name]
    axis.loglog(part["size"], values, marks, color=color)
    axis.set_ylim(10 ** np.floor(np.log10(values.min())), 10 ** np.ceil(np.log10(values.max())))
    axis.set_ylabel(name, color=color)
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter("{x:g}")
        one.set_minor_formatter(NullFormatter())


if __name__ == "__main__":
    main()
