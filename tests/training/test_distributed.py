"""Several processes train the same network as one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cstn_lib.evaluation.predictions import load_table
from cstn_lib.support.errors import InputError
from cstn_lib.training.distributed import BatchParts, shared_batch_norm

TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WORK = """
import sys
from dataclasses import replace
import torch
from cstn_lib.reproduction.experiments import make_experiment
from cstn_lib.reproduction.runs import RunStore

torch.set_num_threads(1)
experiment = make_experiment("cstn", "birds-cub", "smoke")
# 48 images make batches of 20, 20 and 8; two of the epochs move thetas. Not AdamW: its first steps
# are as long for a gradient of rounding errors as for any other; so thetas need a high rate
own = {"epochs": 3, "batch_size": 20, "precision": "float32", "optimizer": "sgd", "lr": 0.02}
own["localization_lr"] = 10.0
training = replace(experiment.training, **own)
store = RunStore(sys.argv[1], device="cpu")
run = store.run(replace(experiment, training=training))
run.predictions("test")
"""


def run_both_ways(place: Path, code: str) -> list[str]:
    """What code prints in one process and in two; runs are kept in folders ``one`` and ``two``."""
    script = place / "work.py"
    script.write_text(code)
    said = []
    for way, launcher in (("one", []), ("two", TWO)):
        done = subprocess.run(
            [sys.executable, *launcher, str(script), str(place / way)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Warning" not in done.stderr
        said.append(done.stdout)
    return said


@given(
    images=st.integers(1, 60),
    batch_size=st.integers(5, 20),
    parts=st.integers(1, 5),
)
def test_parts_make_up_every_batch(images, batch_size, parts):
    order = list(range(100, 100 + images))
    split = [BatchParts(order, batch_size, part, parts) for part in range(parts)]
    whole = [order[i : i + batch_size] for i in range(0, images, batch_size)]
    whole = [batch for batch in whole if len(batch) >= parts]
    assert [len(part) for part in split] == [len(whole)] * parts
    for step, (batch, *mine) in enumerate(zip(whole, *split, strict=True)):
        assert sorted(image for part in mine for image in part) == batch
        sizes = [len(part) for part in mine]
        assert max(sizes) - min(sizes) <= 1
        # the weighted mean of the parts' means is the batch's mean
        means = [sum(part) / len(part) * s.share(step) for part, s in zip(mine, split, strict=True)]
        assert sum(means) / parts == pytest.approx(sum(batch) / len(batch))


def test_a_batch_too_small_for_the_processes_is_a_mistake():
    with pytest.raises(InputError, match="batch_size 3: expected at least one image for each of 4"):
        BatchParts(range(10), 3, 0, 4)


def test_batch_norm_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    with shared_batch_norm(model, 2):
        assert type(model[1]) is not nn.BatchNorm2d
    assert type(model[1]) is nn.BatchNorm2d
    with shared_batch_norm(model, 1):
        assert type(model[1]) is nn.BatchNorm2d


@pytest.mark.parametrize("mean", [0, 7, 30, 3000])
def test_shared_batch_norm_of_one_process_is_batch_norm(tmp_path, mean):
    """Also far from zero, where the difference of two large sums has lost the variance."""
    torch.manual_seed(0)
    x = (torch.randn(16, 3, 9, 9) + mean).double()
    inputs = [x.float().requires_grad_() for _ in range(2)]
    weights = torch.randn(16, 3, 9, 9)
    plain, shared = (nn.Sequential(nn.BatchNorm2d(3)) for _ in range(2))
    expected = plain(inputs[0])
    (expected * weights).sum().backward()
    variance, middle = torch.var_mean(x, (0, 2, 3), keepdim=True, correction=0)
    exact = (x - middle) / (variance + plain[0].eps).sqrt()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        with shared_batch_norm(shared, 2):
            found = shared(inputs[1])
            (found * weights).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert (found - exact).abs().max() < 1e-5 + 3e-7 * mean
    assert torch.allclose(found, expected, atol=1e-5 + 3e-7 * mean)
    assert torch.allclose(inputs[1].grad, inputs[0].grad, atol=1e-4)
    for name, value in plain.state_dict().items():
        assert torch.allclose(shared.state_dict()[name], value, rtol=1e-4), name


def test_two_processes_train_what_one_trains(tmp_path: Path):
    run_both_ways(tmp_path, WORK)
    folders = [next((tmp_path / way / "birds-cub").iterdir()) for way in ("one", "two")]
    assert folders[0].name == folders[1].name
    one, two = (pd.read_csv(folder / "history.csv") for folder in folders)
    assert one["loss_theta"].iloc[-1] > 0.01, "thetas moved"
    assert np.abs(one["loss"] - two["loss"]).max() < 1e-4
    assert np.allclose(one["loss_theta"], two["loss_theta"], rtol=2e-2)
    tables = [load_table(next(folder.glob("predictions-test-*"))) for folder in folders]
    assert len(tables[0]) == len(tables[1]) == 48
    for table in tables:
        assert table["image"].tolist() == list(range(48))
    assert (tables[0]["label"] == tables[1]["label"]).all()
    assert np.allclose(tables[0]["true_prob"], tables[1]["true_prob"], atol=1e-3)
    assert (tables[0]["predicted"] == tables[1]["predicted"]).mean() > 0.95


EVERY_METHOD = """
import sys
from dataclasses import replace
import torch
from cstn_lib.models import HEADS
from cstn_lib.reproduction.experiments import LEVEL_STUDY, make_experiment
from cstn_lib.reproduction.runs import RunStore

torch.set_num_threads(1)
store = RunStore(sys.argv[1], device="cpu")
for name in (*HEADS, *LEVEL_STUDY):
    experiment = make_experiment(name, "birds-cub", "smoke", own=False)
    # two steps an epoch: what a step lacks is noticed in the next one
    own = replace(experiment.training, batch_size=24, optimizer="sgd", lr=0.02)
    losses = store.run(replace(experiment, training=own)).history["loss"]
    if store.processes.is_first:
        print(name, *losses, flush=True)
"""
BY_CHANCE = ("has", "adl")  # each process hides its own patches


def test_every_method_trains_in_two_processes(tmp_path: Path):
    """In and after the warm-up, with every level and with one."""
    one, two = (
        {name: np.array(values, float) for name, *values in map(str.split, said.splitlines())}
        for said in run_both_ways(tmp_path, EVERY_METHOD)
    )
    assert list(one) == list(two)
    for name, values in one.items():
        assert np.allclose(two[name], values, rtol=0.05 if name in BY_CHANCE else 1e-3), name
