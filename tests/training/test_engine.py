"""Training and prediction: what is random, what resumes, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from miniatures import make_folder
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from cstn_lib import pyramid
from cstn_lib.config import LevelConfig, ModelConfig
from cstn_lib.data import READERS, ImageSet
from cstn_lib.data.photos import reading
from cstn_lib.data.photos.reading import open_photos
from cstn_lib.evaluation.boxes import BoxList
from cstn_lib.evaluation.metrics import choose_threshold, evaluate
from cstn_lib.evaluation.predictions import array
from cstn_lib.evaluation.score_maps import CAM_THRESHOLD, THRESHOLDS, boxes_at, resized
from cstn_lib.models import build_model
from cstn_lib.outputs import normalized
from cstn_lib.reproduction.runs import Run, RunStore
from cstn_lib.support.errors import InputError, Interrupted
from cstn_lib.training import engine
from cstn_lib.training.engine import (
    EpochOrder,
    Mirrored,
    TrainingConfig,
    TrainingDivergedError,
    fit,
    lr_scale,
    predict,
    resolve_device,
    supports_bfloat16,
    tf32,
)

SMALL = ModelConfig(
    num_classes=3,
    weights="none",
    levels=(LevelConfig("4", 5), LevelConfig("5", 3)),
    channels=8,
    localization_channels=4,
)
TRAINING = TrainingConfig(
    epochs=3, warmup_epochs=1, batch_size=4, lambda_theta=0.01, alpha_scale=0.5
)
STEPS = 3  # an epoch, with TRAIN_IMAGES and the batch size above
TRAIN_IMAGES = 11


def make_model(seed: int = 0, config: ModelConfig = SMALL) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(config)


@pytest.fixture
def train(make_images: Callable[..., ImageSet]) -> ImageSet:
    return make_images(TRAIN_IMAGES)


@pytest.fixture
def val(make_images: Callable[..., ImageSet]) -> ImageSet:
    return make_images(7, seed=1)


@pytest.fixture
def fit_in(tmp_path: Path, train: ImageSet, val: ImageSet) -> Callable[..., pd.DataFrame]:
    """`fit` on small data, its checkpoint ``NAME.safetensors``."""

    def run(
        model: nn.Module,
        config: TrainingConfig = TRAINING,
        name: str = "checkpoint",
        seed: int = 5,
        device: str = "cpu",
        known: np.ndarray | None = None,
    ) -> pd.DataFrame:
        checkpoint = tmp_path / f"{name}.safetensors"
        return fit(
            model,
            config,
            train,
            val,
            seed=seed,
            device=device,
            checkpoint=checkpoint,
            title="small run",
            known=known,
        )

    return run


def one_line(caught: pytest.ExceptionInfo) -> str:
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def differing(a: nn.Module, b: nn.Module) -> list[str]:
    """Names of the parameters and buffers whose bits differ."""
    other = b.state_dict()
    return [name for name, value in a.state_dict().items() if not torch.equal(value, other[name])]


def at_training_step(model: nn.Module, step: int, action: Callable[[nn.Module], None]) -> None:
    """Call `action` before the forward pass of the given training step, counted from 1."""
    seen = 0

    def hook(module: nn.Module, *_: object) -> None:
        nonlocal seen
        seen += module.training
        if module.training and seen == step:
            action(module)

    model.register_forward_pre_hook(hook)


# What is random


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int, before: tuple[int, ...] = ()) -> list[int]:
        sampler = EpochOrder(50, seed)
        for sampler.epoch in before:
            list(sampler)
        np.random.seed(len(before))
        torch.manual_seed(len(before))
        sampler.epoch = epoch
        return list(sampler)

    assert order(3, 2) == order(3, 2, before=(0, 1)) == order(3, 2, before=(7, 7, 7))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_order_visits_each_image_once_and_mirrors_half():
    sampler = EpochOrder(1000, seed=0)
    flips = []
    for sampler.epoch in range(2):
        indices = np.array(list(sampler))
        assert len(sampler) == len(indices) == 1000
        assert sorted(indices % 1000) == list(range(1000))
        flips.append(np.zeros(1000, bool))
        flips[-1][indices % 1000] = indices >= 1000
        assert 400 < flips[-1].sum() < 600
        assert not np.array_equal(indices % 1000, np.arange(1000))
    assert 400 < (flips[0] != flips[1]).sum() < 600, "flips change from epoch to epoch"


def test_mirrored_against_a_loop(make_images: Callable[..., ImageSet]):
    data = make_images(6)
    indices = [7, 2, 11, 6, 0, 5]
    images, labels = Mirrored(data).__getitems__(indices)
    assert len(Mirrored(data)) == 12
    assert images.dtype == torch.uint8
    for position, index in enumerate(indices):
        expected = data.images[index % 6]
        if index >= 6:
            expected = np.stack([[row[-1 - x] for x in range(len(row))] for row in expected])
        np.testing.assert_array_equal(images[position].permute(1, 2, 0), expected)
        assert labels[position] == data.labels[index % 6]


def test_boxes_are_mirrored_with_their_images(make_images: Callable[..., ImageSet]):
    data = make_images(3)
    boxes = np.array([[0.1, 0.2, 0.5, 0.7], [0.0, 0.0, 1.0, 1.0], [0.6, 0.1, 0.9, 0.3]])
    images, labels, given = Mirrored(data, boxes).__getitems__([2, 3, 0])
    alone = Mirrored(data).__getitems__([2, 3, 0])
    assert torch.equal(images, alone[0]) and torch.equal(labels, alone[1])
    expected = torch.tensor([[0.6, 0.1, 0.9, 0.3], [0.5, 0.2, 0.9, 0.7], [0.1, 0.2, 0.5, 0.7]])
    assert torch.allclose(given, expected)


@pytest.mark.parametrize("side", [0.3, 0.9])
def test_known_boxes_are_learned_by_the_localization_networks_alone(fit_in, train, side):
    """Windows come to the boxes that they are told; nothing else of the network changes."""
    model, config = make_model(), replace(TRAINING, epochs=20, warmup_epochs=0, lr=3e-2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    known = np.tile([0.5 - side / 2, 0.5 - side / 2, 0.5 + side / 2, 0.5 + side / 2], (11, 1))
    free = replace(config, localization_lr=1.0, lambda_theta=0.0)
    history = fit_in(model, free, name=f"{side}", known=known)
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed and all(".localization." in name for name in changed)
    assert history["loss_box"].iloc[-1] < 0.75 * history["loss_box"].iloc[0], history[
        "loss_box"
    ].tolist()
    sides = array(predict(model, train, device="cpu"), "true_box")[:, 0]
    assert abs(np.median(sides[:, 2:] - sides[:, :2]) - side) < 0.15


def test_mirrored_leaves_the_data_alone(make_images: Callable[..., ImageSet]):
    data = make_images(6)
    before = data.images.copy()
    Mirrored(data).__getitems__(list(range(12)))
    np.testing.assert_array_equal(data.images, before)


def test_fit_shows_the_images_of_the_order(fit_in, train: ImageSet):
    """Each training step gets the images that seed and epoch name, in that order."""
    seen: list[torch.Tensor] = []
    model = make_model()
    model.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].clone()) if module.training else None
    )
    fit_in(model, replace(TRAINING, epochs=2), seed=8)
    order = EpochOrder(TRAIN_IMAGES, 8)
    expected = []
    for order.epoch in range(2):
        expected.append(Mirrored(train).__getitems__(list(order))[0])
    assert len(seen) == 2 * STEPS
    assert torch.equal(torch.cat(seen), torch.cat(expected))


def test_same_seed_same_network_other_seed_another(fit_in):
    models = [make_model() for _ in range(3)]
    histories = [
        fit_in(model, name=str(i), seed=seed)
        for i, (model, seed) in enumerate(zip(models, (1, 1, 2), strict=True))
    ]
    assert not differing(models[0], models[1])
    assert differing(models[0], models[2])
    same = [history.drop(columns="seconds") for history in histories]
    pd.testing.assert_frame_equal(same[0], same[1], check_exact=True)


# The recipe


def test_warmup_keeps_every_theta_at_the_identity(fit_in, train: ImageSet):
    start, model = make_model(), make_model()
    history = fit_in(model, replace(TRAINING, epochs=2, warmup_epochs=2))
    moving = {id(p) for p in model.localization_parameters()}
    names = {name for name, p in model.named_parameters() if id(p) in moving}
    changed = set(differing(start, model))
    assert names and not names & changed, "neither gradient nor decay reaches them"
    assert {name for name, _ in model.named_parameters()} - names <= changed
    assert history["loss_theta"].tolist() == [0.0, 0.0]
    thetas = array(predict(model, train, device="cpu"), "true_theta")
    assert (thetas == [1, 0, 0, 0, 1, 0]).all()


def test_thetas_move_after_the_warmup(fit_in, train: ImageSet):
    start, model = make_model(), make_model()
    history = fit_in(model, replace(TRAINING, lr=0.05, localization_lr=1.0))
    changed = differing(start, model)
    assert any("localization" in name for name in changed)
    assert history["loss_theta"][0] == 0 < history["loss_theta"][2]
    thetas = array(predict(model, train, device="cpu"), "true_theta")
    assert (thetas != [1, 0, 0, 0, 1, 0]).any()


@pytest.mark.parametrize("schedule", ["one-cycle", "constant"])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_learning_rates_and_decay_of_the_groups(fit_in, monkeypatch, name, schedule):
    original = getattr(torch.optim, name)
    steps = []

    class Watched(original):
        def step(self, closure: None = None) -> None:
            groups = [(g["lr"], g["weight_decay"], g["params"]) for g in self.param_groups]
            steps.append((groups, self.defaults.get("momentum")))
            return super().step(closure)

    monkeypatch.setattr(torch.optim, name, Watched)
    config = replace(
        TRAINING,
        optimizer=name.lower(),
        schedule=schedule,
        lr=0.01,
        localization_lr=0.2,
        weight_decay=0.3,
    )
    model = make_model()
    fit_in(model, config)
    assert len(steps) == 3 * STEPS
    for step, (((lr, decay, rest), (slow_lr, no_decay, moving)), momentum) in enumerate(steps):
        scale = lr_scale(config, step / (3 * STEPS))
        assert lr == pytest.approx(0.01 * scale)
        assert slow_lr == pytest.approx(0.2 * 0.01 * scale)
        assert (decay, no_decay) == (0.3, 0.0)
        assert momentum == (0.9 if name == "SGD" else None)
        assert {id(p) for p in moving} == {id(p) for p in model.localization_parameters()}
        assert {id(p) for p in [*rest, *moving]} == {id(p) for p in model.parameters()}
        assert len(rest) + len(moving) == len(list(model.parameters()))


def test_frozen_parameters_are_not_trained(fit_in):
    config = replace(SMALL, frozen_stages=2)
    start, model = make_model(config=config), make_model(config=config)
    fit_in(model)
    changed = differing(start, model)
    frozen = ("backbone.stages.0", "backbone.stages.1")
    assert not [name for name in changed if name.startswith(frozen)]
    assert [name for name in changed if name.startswith("backbone.stages.2")]


def test_shape_of_the_one_cycle():
    config = TrainingConfig(schedule="one-cycle")
    at = np.linspace(0, 0.9999, 2001)
    scales = np.array([lr_scale(config, progress) for progress in at])
    peak = scales.argmax()
    assert scales[0] == pytest.approx(0.05)
    assert at[peak] == pytest.approx(0.1, abs=1e-3)
    assert scales.max() == pytest.approx(1, abs=1e-2)
    assert scales[-1] == pytest.approx(0, abs=1e-6)
    assert (np.diff(scales[: peak + 1]) > 0).all()
    assert (np.diff(scales[peak:]) < 0).all()
    assert np.abs(np.diff(scales)).max() < 0.01, "no jump"
    assert lr_scale(config, 0.55) == pytest.approx(0.5), "half way down half way through"


def test_constant_schedule():
    config = TrainingConfig(schedule="constant")
    assert {lr_scale(config, progress) for progress in (0.0, 0.05, 0.5, 0.99)} == {1.0}


def test_history(fit_in):
    history = fit_in(make_model())
    assert history["epoch"].tolist() == [1, 2, 3]
    terms = history["loss_cls"] + 0.01 * history["loss_theta"] + 0.5 * history["loss_scale"]
    np.testing.assert_allclose(history["loss"], terms, rtol=1e-5)
    for name in ("top1_class", "top1_loc", "gt_known_loc", "top5_box_loc", "any_box"):
        assert history[f"val_{name}"].between(0, 1).all()
    assert (history["seconds"] >= 0).all()


def test_without_a_split_to_watch(train: ImageSet, val: ImageSet, tmp_path: Path):
    """Watching changes nothing."""
    models, histories = [make_model(), make_model()], []
    for model, watched in zip(models, (val, None), strict=True):
        checkpoint = tmp_path / f"{watched is None}.safetensors"
        options = {"seed": 5, "device": "cpu", "checkpoint": checkpoint, "title": "run"}
        histories.append(fit(model, TRAINING, train, watched, **options))
    assert not differing(*models)
    kept = [name for name in histories[0] if not name.startswith("val_")]
    assert histories[1].columns.tolist() == kept
    assert len(kept) < len(histories[0].columns)


def test_loss_is_the_mean_over_the_steps(fit_in, monkeypatch):
    values = []

    def watched(*args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        losses = original(*args, **kwargs)
        values.append(losses["loss"].item())
        return losses

    original = pyramid.total_loss
    monkeypatch.setattr(pyramid, "total_loss", watched)
    history = fit_in(make_model())
    means = np.reshape(values, (3, STEPS)).mean(axis=1)
    np.testing.assert_allclose(history["loss"], means, rtol=1e-5)


# Resuming


VARIANTS = {
    "adamw": TRAINING,
    "sgd": replace(TRAINING, optimizer="sgd"),
    "bfloat16": replace(TRAINING, precision="bfloat16"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_interrupted_training_ends_in_the_same_network(fit_in, val: ImageSet, variant):
    config = VARIANTS[variant]
    undisturbed = make_model()
    expected = fit_in(undisturbed, config, "undisturbed")
    for seed in (0, 98):  # in the middle of epoch 2, then of epoch 3
        stopped = make_model(seed)
        at_training_step(stopped, STEPS + 2, interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit_in(stopped, config, "resumed")
    resumed = make_model(seed=99)  # nothing may be left of how it started
    history = fit_in(resumed, config, "resumed")
    assert not differing(undisturbed, resumed)
    pd.testing.assert_frame_equal(
        history.drop(columns="seconds"), expected.drop(columns="seconds"), check_exact=True
    )
    tables = [
        predict(model, val, device="cpu", precision=config.precision)
        for model in (undisturbed, resumed)
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_a_complete_checkpoint_needs_no_step(fit_in):
    model = make_model()
    history = fit_in(model)

    def fail(module: nn.Module) -> None:
        raise AssertionError("trained again")

    again = make_model(seed=99)
    at_training_step(again, 1, fail)
    pd.testing.assert_frame_equal(fit_in(again), history)
    assert not differing(model, again)


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
import cstn_lib.data
from cstn_lib.reproduction.experiments import make_experiment
from cstn_lib.reproduction.runs import RunStore

def slow_training():
    experiment = make_experiment("cstn", "birds-cub", "smoke")
    training = replace(experiment.training, epochs=3, batch_size=6, precision="float32")
    return replace(experiment, training=training)

if __name__ == "__main__":
    runs, data = sys.argv[1:]
    torch.set_num_threads(1)
    cstn_lib.data.project_folder = lambda name, chosen=None: Path(data)
    RunStore(runs, device="cpu").run(slow_training())
"""


def epochs_in(checkpoint: Path) -> int:
    with safe_open(checkpoint, "pt") as file:
        return len(json.loads(file.metadata()["history"]))


def kill_after_an_epoch(script: Path, run: Run, data_folder: Path) -> None:
    """Start the script and end it with SIGKILL as soon as there is a checkpoint."""
    checkpoint = run.folder / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    process = subprocess.Popen(
        [sys.executable, script, run.store.folder, data_folder],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while not checkpoint.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"no checkpoint came:\n{process.communicate()[0]}")
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL, "it was still training"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL absent")
def test_killed_training_ends_in_the_same_network(tmp_path: Path, data_folder: Path):
    script = tmp_path / "train.py"
    script.write_text(KILLED, encoding="utf-8")
    names: dict = {"__name__": "killed"}
    exec(KILLED, names)
    experiment = names["slow_training"]()

    def train(folder: str) -> Run:
        # in a process of its own: one that has run other tests may round otherwise
        command = [sys.executable, script, tmp_path / folder, data_folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
        return RunStore(tmp_path / folder, device="cpu").open(experiment)

    expected = train("undisturbed")
    store = RunStore(tmp_path / "killed", device="cpu")
    run = store.open(experiment)
    kill_after_an_epoch(script, run, data_folder)
    assert not run.finished
    assert 1 <= epochs_in(run.folder / "checkpoint.safetensors") < 3
    run = train("killed")
    assert run.finished and run.folder.name == expected.folder.name
    models = [(r.folder / "model.safetensors").read_bytes() for r in (expected, run)]
    assert models[0] == models[1]
    pd.testing.assert_frame_equal(run.predictions(), expected.predictions(), check_exact=True)
    pd.testing.assert_frame_equal(
        run.history.drop(columns="seconds"),
        expected.history.drop(columns="seconds"),
        check_exact=True,
    )


# Divergence


def spoil(module: nn.Module) -> None:
    with torch.no_grad():
        module.classifier.bias.fill_(float("nan"))


def test_divergence_names_the_place_and_keeps_the_checkpoint(fit_in, tmp_path: Path):
    undisturbed = make_model()
    fit_in(undisturbed, name="undisturbed")
    checkpoint = tmp_path / "checkpoint.safetensors"
    first = make_model()
    at_training_step(first, STEPS + 1, lambda module: contents.append(checkpoint.read_bytes()))
    at_training_step(first, STEPS + 2, spoil)
    contents: list[bytes] = []
    with pytest.raises(TrainingDivergedError) as caught:
        fit_in(first)
    message = one_line(caught)
    for part in ("small run", "epoch 2", "step 2", "loss nan", "loss_cls nan", str(checkpoint)):
        assert part in message
    for part in ("loss_theta", "loss_scale"):
        assert part in message
    assert contents == [checkpoint.read_bytes()]
    again = make_model(seed=99)
    fit_in(again)
    assert not differing(undisturbed, again)


def test_divergence_before_the_first_checkpoint(fit_in, tmp_path: Path):
    config = replace(TRAINING, optimizer="sgd", schedule="constant", lr=1e30, warmup_epochs=0)
    with pytest.raises(TrainingDivergedError) as caught:
        fit_in(make_model(), config)
    message = one_line(caught)
    assert "small run" in message and "epoch 1" in message and "untrained" in message
    assert list(tmp_path.iterdir()) == []


def test_divergence_in_the_last_step_is_seen(fit_in, tmp_path: Path):
    model = make_model()
    at_training_step(model, 3 * STEPS, spoil)
    with pytest.raises(TrainingDivergedError, match="epoch 3, step 3"):
        fit_in(model)
    assert epochs_in(tmp_path / "checkpoint.safetensors") == 2


def test_divergence_by_the_last_step_of_an_epoch_is_seen(fit_in, tmp_path: Path):
    """Its loss is finite, its gradient is not; nobody could go on from such a checkpoint."""

    def spoil_gradient(module: nn.Module) -> None:
        module.classifier.bias.register_hook(lambda gradient: gradient * float("inf"))

    model, undisturbed = make_model(), make_model()
    config = replace(TRAINING, optimizer="sgd", lr=0.01)
    at_training_step(model, 2 * STEPS, spoil_gradient)
    with pytest.raises(TrainingDivergedError) as caught:
        fit_in(model, config)
    assert "small run, epoch 2, last step: classifier.bias is not finite" in one_line(caught)
    assert epochs_in(tmp_path / "checkpoint.safetensors") == 1
    fit_in(undisturbed, config, "undisturbed")
    resumed = make_model(seed=99)
    fit_in(resumed, config)
    assert not differing(undisturbed, resumed)


# Ctrl-C


def interrupt(module: nn.Module) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", [2, STEPS + 1])
def test_ctrl_c_says_what_is_kept(fit_in, tmp_path: Path, step):
    model = make_model()
    at_training_step(model, step, interrupt)
    with pytest.raises(Interrupted) as caught:
        fit_in(model)
    message, checkpoint = one_line(caught), tmp_path / "checkpoint.safetensors"
    if step == 2:
        assert message.startswith("small run, epoch 1: stopped; the last good state is the untr")
    else:
        assert f"epoch 2: stopped; the last good state is kept in {checkpoint}, " in message
    assert message.endswith("the same call goes on from there")
    assert all(parameter.requires_grad for parameter in model.parameters())


# bfloat16 and devices


def test_bfloat16(fit_in):
    """Autocast: it computes in bfloat16, and leaves float32 parameters and an ordinary network."""
    dtypes = set()
    model = make_model()
    model.classifier.register_forward_hook(lambda *args: dtypes.add(args[2].dtype))
    history = fit_in(model, replace(TRAINING, precision="bfloat16"))
    assert dtypes == {torch.bfloat16}
    assert np.isfinite(history.to_numpy()).all()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    dtypes.clear()
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert dtypes == {torch.float32}


def test_predict_in_bfloat16(val: ImageSet):
    rounded = predict(make_model(), val, device="cpu", precision="bfloat16")
    exact = predict(make_model(), val, device="cpu")
    assert np.isfinite(array(rounded, "true_score")).all()
    difference = np.abs(array(rounded, "level_score") - array(exact, "level_score"))
    assert 0 < difference.max() < 0.5


@pytest.mark.parametrize("before", ["float32", "bfloat16"])
@pytest.mark.parametrize("after", ["float32", "bfloat16"])
def test_a_network_can_be_used_in_both_precisions(fit_in, val: ImageSet, before, after):
    """One that was trained or asked before computes in the precision that is wanted now."""
    dtypes = set()
    model = make_model()
    fit_in(model, replace(TRAINING, epochs=1, precision=before))
    model.classifier.register_forward_hook(lambda *args: dtypes.add(args[2].dtype))
    for _ in range(2):
        predict(model, val, device="cpu", precision=after)
        assert dtypes == {getattr(torch, after)}


def test_float32_does_not_autocast(fit_in):
    dtypes = set()
    model = make_model()
    model.classifier.register_forward_hook(lambda *args: dtypes.add(args[2].dtype))
    fit_in(model, replace(TRAINING, epochs=1))
    assert dtypes == {torch.float32}


def products_round() -> tuple[str, bool]:
    """How matrix products round, and whether a GPU's convolutions do."""
    cudnn = torch.backends.cudnn
    newer = hasattr(cudnn, "conv")  # since PyTorch 2.9
    rounded = cudnn.conv.fp32_precision == "tf32" if newer else cudnn.allow_tf32
    return torch.get_float32_matmul_precision(), rounded


@pytest.mark.parametrize(("allowed", "within"), [(False, "highest"), (True, "high")])
def test_all_products_round_or_none(allowed, within):
    before = products_round()
    with tf32(allowed):
        assert products_round() == (within, allowed)
    assert products_round() == before
    assert torch.backends.cudnn.allow_tf32 == before[1], "the older and the newer name agree"


def test_a_training_depends_on_its_recipe_alone(fit_in, val: ImageSet):
    """Not on what the environment or the caller has asked of torch."""
    seen = set()
    models = [make_model() for _ in range(2)]
    models[1].register_forward_hook(lambda *_: seen.add(products_round()))
    fit_in(models[0], name="plain")
    before, rounded = products_round()
    torch.set_float32_matmul_precision("medium")  # as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE does
    try:
        fit_in(models[1], name="set")
        predict(models[1], val, device="cpu")
        assert products_round() == ("medium", rounded), "the caller's again"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {("highest", False)}
    assert not differing(*models)


@pytest.mark.parametrize("call", [resolve_device, supports_bfloat16])
def test_unknown_device(call):
    with pytest.raises(InputError) as caught:
        call("tpu")
    message = one_line(caught)
    assert "'tpu'" in message and "auto, cpu, cuda" in message


def test_no_device_is_auto():
    """papermill makes None of ``-p device None``."""
    assert resolve_device(None) == resolve_device("auto")


def test_absent_cuda(fit_in, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError) as caught:
        fit_in(make_model(), device="cuda")
    assert "'cuda'" in one_line(caught)
    assert resolve_device("auto") == "cpu"


@pytest.mark.parametrize("name", ["optimizer", "schedule", "precision"])
def test_unknown_names(fit_in, tmp_path: Path, name):
    with pytest.raises(InputError) as caught:
        fit_in(make_model(), replace(TRAINING, **{name: "magic"}))
    assert "magic" in one_line(caught)
    assert list(tmp_path.iterdir()) == []


# Damaged checkpoints


def damaged(raw: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "cut off": raw[: len(raw) // 2],
        "one byte short": raw[:-1],
        "text": b"epoch,loss\n1,2\n",
        "other header": raw[:8] + b"}" + raw[9:],
    }


def assert_refused(fit_in: Callable[..., pd.DataFrame], path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        fit_in(make_model())
    assert str(path) in one_line(caught)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", damaged(b"0" * 20))
def test_damaged_checkpoint(fit_in, tmp_path: Path, kind):
    fit_in(make_model(), replace(TRAINING, epochs=1))
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(damaged(path.read_bytes())[kind])
    assert_refused(fit_in, path)


def rewrite(path: Path, drop: str = "", metadata: dict[str, str] | None = None) -> None:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        kept = file.metadata()
    save_file(
        {name: value for name, value in tensors.items() if not drop or drop not in name},
        path,
        metadata=kept if metadata is None else metadata,
    )


@pytest.mark.parametrize("drop", ["classifier.weight", "optimizer/"])
def test_checkpoint_without_a_part(fit_in, tmp_path: Path, drop):
    fit_in(make_model(), replace(TRAINING, epochs=1))
    path = tmp_path / "checkpoint.safetensors"
    rewrite(path, drop=drop)
    assert_refused(fit_in, path)


@pytest.mark.parametrize("metadata", [{}, {"history": "[{"}, {"history": "null"}], ids=str)
def test_checkpoint_with_another_history(fit_in, tmp_path: Path, metadata):
    fit_in(make_model(), replace(TRAINING, epochs=1))
    path = tmp_path / "checkpoint.safetensors"
    rewrite(path, metadata=metadata)
    assert_refused(fit_in, path)


def test_checkpoint_of_another_network(fit_in, tmp_path: Path):
    fit_in(make_model(config=replace(SMALL, channels=4)), replace(TRAINING, epochs=1))
    assert_refused(fit_in, tmp_path / "checkpoint.safetensors")


# Prediction


def moved_model() -> nn.Module:
    """A network whose windows have left the identity."""
    model = make_model()
    for layer in model.layers.values():
        nn.init.normal_(layer.localization.regress.weight, std=0.2)
    return model


def test_predict_against_a_loop(device, make_images: Callable[..., ImageSet], monkeypatch):
    monkeypatch.setattr("cstn_lib.training.engine.PREDICT_BATCH", 4)
    data = make_images(10)  # the last batch is not full
    model = moved_model()
    model(data.__getitems__([0, 1])[0])  # batch norm has seen something
    table = predict(model, data, device=device)
    assert table["image"].tolist() == list(range(10))
    assert table["label"].tolist() == data.labels.tolist()
    model.cpu().eval()
    for i in range(10):
        images, labels = data.__getitems__([i])
        with torch.no_grad():
            output = model(images)
        joint = output.log_joint[0]
        line = table.iloc[i]
        assert line["predicted"] == joint.exp().sum(1).argmax()
        for who, c in (("true", labels.item()), ("predicted", int(line["predicted"]))):
            best = joint[c].argsort(descending=True)[:5]
            np.testing.assert_allclose(line[f"{who}_score"], joint[c, best], atol=1e-4)
            boxes = array(table, f"{who}_box")[i]
            np.testing.assert_allclose(boxes, output.boxes[0, best], atol=1e-4)
            defaults = array(table, f"{who}_default_box")[i]
            np.testing.assert_allclose(defaults, output.default_boxes[best], atol=1e-6)
        truth = torch.from_numpy(data.boxes_of(i))
        np.testing.assert_array_equal(np.reshape(line["gt_boxes"], (-1, 4)), truth)
        kinds = {"any_iou": output.boxes[0], "any_default_iou": output.default_boxes}
        for name, boxes in kinds.items():
            ious = [
                torchvision.ops.box_iou(box[None], one[None]).item()
                for box in boxes
                for one in truth
            ]
            assert line[name] == pytest.approx(max(ious, default=0.0), abs=1e-4)


def test_predict_does_not_depend_on_the_batch(make_images: Callable[..., ImageSet], monkeypatch):
    data, model = make_images(10), moved_model()
    tables = []
    for batch in (1, 3, 10, 64):
        monkeypatch.setattr("cstn_lib.training.engine.PREDICT_BATCH", batch)
        tables.append(predict(model, data, device="cpu"))
    for table in tables[1:]:
        for column in ("true_score", "true_box", "level_box"):
            np.testing.assert_allclose(array(table, column), array(tables[0], column), atol=1e-4)
        np.testing.assert_allclose(table["any_iou"], tables[0]["any_iou"], atol=1e-4)


@pytest.mark.parametrize("head", ["cstn", "cam"])
def test_predict_with_views(make_images: Callable[..., ImageSet], head):
    """The same classes, the columns that every table has, and every method is judged by them."""
    data = make_images(10)
    model = make_model(config=replace(SMALL, head=head))
    alone = predict(model, data, device="cpu")
    table = predict(model, data, device="cpu", views=True)
    for name in ("image", "label", "predicted", "predicted_prob", "true_prob"):
        assert table[name].tolist() == pytest.approx(alone[name].tolist()), name
    assert set(table) <= set(alone)
    assert array(table, "true_box").shape == (10, 1, 4)
    known = evaluate(table, threshold=choose_threshold(table))["gt_known_loc"]
    assert evaluate(table)["gt_known_loc"] <= known or head == "cstn"
    # those of the image are among the boxes, so that some box can only be closer
    assert head == "cam" or (table["any_iou"] >= alone["any_iou"] - 1e-4).all()
    boxes = "true_box" if head == "cstn" else "threshold_boxes"
    assert np.abs(array(table, boxes) - array(alone, boxes)).max() > 0.01


def test_predict_changes_nothing(make_images: Callable[..., ImageSet]):
    model = moved_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, make_images(5), device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_predict_without_a_transform(make_images: Callable[..., ImageSet]):
    table = predict(make_model(config=replace(SMALL, head="plain")), make_images(4), device="cpu")
    assert (array(table, "true_theta") == [1, 0, 0, 0, 1, 0]).all()
    pd.testing.assert_series_equal(table["any_iou"], table["any_default_iou"], check_names=False)
    np.testing.assert_array_equal(array(table, "true_box"), array(table, "true_default_box"))


@pytest.mark.parametrize("head", ["cam", "has", "acol", "spg", "adl"])
def test_predict_score_maps(make_images: Callable[..., ImageSet], head):
    """Against the network and `boxes_at`, image by image."""
    data, model = make_images(5), make_model(config=replace(SMALL, head=head))
    table = predict(model, data, device="cpu")
    model.eval()
    for i in range(len(data)):
        images, labels = data.__getitems__([i])
        with torch.no_grad():
            output = model(images)
        assert table["predicted"][i] == output.logits[0].argmax()
        probability = output.logits[0].softmax(0)
        assert table["true_prob"][i] == pytest.approx(probability[labels[0]].item(), abs=1e-5)
        map_ = resized(normalized(output.maps[0, labels]), data.image_size).numpy()
        boxes, anywhere = boxes_at(map_, THRESHOLDS, BoxList.of([data.boxes_of(i)]))
        np.testing.assert_array_equal(array(table, "threshold_boxes")[i], boxes[0])
        np.testing.assert_array_equal(array(table, "threshold_any_iou")[i], anywhere[0])
        fixed = THRESHOLDS.index(CAM_THRESHOLD)
        np.testing.assert_array_equal(array(table, "true_box")[i], boxes[:, fixed])
        assert table["any_iou"][i] == anywhere[0, fixed]


HEADS = ("cstn", "plain", "deform", "stn", "cam", "has", "acol", "spg", "adl")


@pytest.mark.parametrize("head", HEADS)
def test_every_method_resumes_to_the_same_network(fit_in, head):
    """Also those that draw random numbers while they train."""
    config = replace(SMALL, head=head)
    training = replace(TRAINING, epochs=2, warmup_epochs=0)
    undisturbed, stopped, resumed = (make_model(seed, config) for seed in (0, 0, 99))
    history = fit_in(undisturbed, training, "undisturbed")
    assert history["loss"].notna().all()
    at_training_step(stopped, STEPS + 2, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit_in(stopped, training, "resumed")
    torch.rand(7)  # whatever happened in between
    fit_in(resumed, training, "resumed")
    assert not differing(undisturbed, resumed)


@pytest.mark.parametrize("head", HEADS)
def test_every_method_in_bfloat16(device, fit_in, val: ImageSet, head):
    """Also where its checkpoint is read again."""
    for epochs in (1, 2):
        model = make_model(config=replace(SMALL, head=head))
        training = replace(TRAINING, epochs=epochs, warmup_epochs=0, precision="bfloat16")
        history = fit_in(model, training, device=device)
        assert len(history) == epochs and np.isfinite(history.to_numpy()).all()
    table = predict(model, val, device=device, precision="bfloat16")
    assert np.isfinite(array(table, "true_box")).all()
    assert table["true_prob"].between(0, 1).all()


def test_what_a_network_draws_depends_on_seed_and_epoch_alone(fit_in):
    drawn: list[float] = []
    model = make_model()
    model.register_forward_pre_hook(
        lambda module, inputs: drawn.append(torch.rand(()).item()) if module.training else None
    )
    fit_in(model, name="one")
    assert len(set(drawn)) == 3 * STEPS
    first, drawn[:] = list(drawn), []
    torch.rand(5)
    fit_in(model, name="two")
    assert drawn == first
    drawn.clear()
    fit_in(model, name="three", seed=6)
    assert not set(drawn) & set(first)


def test_images_from_other_processes_are_those_of_one(fit_in, monkeypatch):
    """As they are loaded for a GPU, epoch after epoch."""
    alone, helped = make_model(), make_model()
    fit_in(alone, name="alone")
    loading = engine._loading(torch.device("cuda")) | {"num_workers": 2, "pin_memory": False}
    monkeypatch.setattr(engine, "_loading", lambda device: loading)
    fit_in(helped, name="helped")
    assert not differing(alone, helped)


def test_fit_leaves_the_random_numbers_of_the_caller(fit_in):
    models = [make_model(), make_model(config=replace(SMALL, head="has"))]
    torch.manual_seed(3)
    expected = torch.rand(4)
    for i, model in enumerate(models):
        torch.manual_seed(3)
        fit_in(model, name=str(i))
        assert torch.equal(torch.rand(4), expected)


def test_seconds_are_those_of_training_alone(fit_in, monkeypatch):
    """A slow look at val does not count."""
    original = engine.evaluate

    def slow(table: pd.DataFrame) -> dict[str, float]:
        time.sleep(0.5)
        return original(table)

    monkeypatch.setattr(engine, "evaluate", slow)
    history = fit_in(make_model(config=replace(SMALL, head="cam")), replace(TRAINING, epochs=1))
    assert history["seconds"][0] < 0.5


def test_watching_does_not_sweep_thresholds(fit_in, monkeypatch):
    sweeps = []
    original = engine.judge

    def watched(*args: object, sweep: bool) -> dict[str, np.ndarray]:
        sweeps.append(sweep)
        return original(*args, sweep=sweep)

    monkeypatch.setattr(engine, "judge", watched)
    fit_in(make_model(config=replace(SMALL, head="cam")), replace(TRAINING, epochs=2))
    assert sweeps == [False, False]


def test_a_damaged_photo_is_one_line_wherever_it_is_loaded(tmp_path: Path, monkeypatch):
    """Processes that load images raise an error whose text is their traceback."""
    top = make_folder(tmp_path)
    monkeypatch.setattr(reading, "STORED_AT_MOST", 0)
    splits = [
        open_photos(READERS["folder"], top, split, image_size=40, data_dir=tmp_path / "data")
        for split in ("train", "val")
    ]
    damaged = top / "train/bee/train-bee-0.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    monkeypatch.setattr(engine, "_loading", lambda device: {"num_workers": 1})
    with pytest.raises(InputError) as in_fit:
        options = {"seed": 0, "device": "cpu", "checkpoint": tmp_path / "run", "title": "run"}
        fit(make_model(), TRAINING, *splits, **options)
    with pytest.raises(InputError) as in_predict:
        predict(make_model(), splits[0], device="cpu")
    for caught in (in_fit, in_predict):
        assert one_line(caught).startswith(f"{damaged}: damaged, expected a whole JPEG")
