"""Every training of the project as a named configuration, and the profiles that size them.

An `Experiment` is everything a run depends on but the content of the data. `make_experiment` is the
only place where hyper-parameters are written down; they were chosen on the val splits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cstn_lib.config import LevelConfig, ModelConfig
from cstn_lib.data import DATASETS, DataConfig
from cstn_lib.engine import TrainingConfig, supports_bfloat16
from cstn_lib.errors import InputError, unknown_name

__all__ = [
    "ALPHA_STUDY",
    "EXPERIMENTS",
    "LAMBDA_STUDY",
    "LEVEL_STUDY",
    "PROFILES",
    "STUDIES",
    "Experiment",
    "Profile",
    "make_experiment",
    "profile_named",
]


@dataclass(frozen=True)
class Experiment:
    """One training."""

    name: str
    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    seed: int

    @property
    def training_split(self) -> str:
        """The split whose images and labels it learns from."""
        return "pretext" if self.name == "pretext" else "train"


@dataclass(frozen=True)
class Profile:
    """How much work: the same experiments in four sizes.

    Attributes:
        name: as given on the command line.
        seeds: how many seeds of each experiment.
        train, val, test: images of the embedded data sets.
        pretext: images that pretrain the small backbone.
        epochs, warmup_epochs: of trainings on the embedded data sets, whose backbone is pretrained.
        photos: at most so many photographs of each split of a read data set; None: all.
        photo_epochs, photo_warmup_epochs: of trainings on photographs, which start from nothing.
    """

    name: str
    seeds: int
    train: int
    val: int
    test: int
    pretext: int
    epochs: int
    warmup_epochs: int
    photos: int | None = None
    photo_epochs: int = 6
    photo_warmup_epochs: int = 2


LAPTOP = {
    "train": 4000,
    "val": 600,
    "test": 1200,
    "pretext": 6000,
    "epochs": 4,
    "warmup_epochs": 1,
}
PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "smoke",
            seeds=1,
            train=48,
            val=24,
            test=48,
            pretext=48,
            epochs=2,
            warmup_epochs=1,
            photos=60,
            photo_epochs=2,
            photo_warmup_epochs=1,
        ),
        Profile("quick", seeds=1, **LAPTOP),
        Profile("cpu", seeds=3, **LAPTOP),
    )
}

HEADS = {
    "cstn": "cstn",
    "plain": "conv",
    "cam": "cam",
    "has": "has",
    "acol": "acol",
    "spg": "spg",
    "adl": "adl",
    "stn": "stn",
    "deform": "deform",
}
"""The head (`cstn_lib.config.ModelConfig`) of each method."""

LEVEL_STUDY = {"cstn-level-4": "4", "cstn-level-5": "5"}
"""Figure 6 and 8: the only level that votes."""

LAMBDA_STUDY = {f"cstn-lambda-{v}": float(v) for v in ("0", "1e-5", "3e-5", "3e-4", "1e-3", "1e-2")}
"""Table III: lambda per example, as in Eq. 4. ``cstn`` itself stands at `LAMBDA_THETA`."""

ALPHA_STUDY = {f"cstn-alpha-{v}": float(v) for v in ("0", "1", "50")}
"""How widely alpha can vary; ``cstn`` itself stands at `ALPHA_SCALE`."""

STUDIES = (*LEVEL_STUDY, *LAMBDA_STUDY, *ALPHA_STUDY)

EXPERIMENTS = (*HEADS, *STUDIES, "pretext")
"""``cstn``: the complete system of section III-E. ``plain``, ``cam``, ``has``, ``acol``, ``spg``,
``adl``, ``stn``, ``deform``: what it is compared with (`cstn_lib.baselines`), on the same backbone,
images, augmentation and schedule. ``cstn-...``: ``cstn`` with one thing changed. ``pretext``: the
small backbone's pretraining."""

# default boxes of 0.42 and 0.56 of the image's side; photographs are filled more: 0.79 and 0.78
BIRD_LEVELS = (LevelConfig("4", 5, dilation=2), LevelConfig("5", 6))
PHOTO_LEVELS = (LevelConfig("4", 6, dilation=3), LevelConfig("5", 8))
LAMBDA_THETA = 1e-4
ALPHA_SCALE = {"birds-cub": 5.0, "birds-ilsvrc": 16.0}
PHOTO_ALPHA_SCALE = 0.5


def profile_named(name: str) -> Profile:
    """The profile of that name.

    Raises:
        InputError: there is none.
    """
    if name not in PROFILES:
        raise unknown_name("profile", name, PROFILES)
    return PROFILES[name]


def make_experiment(
    name: str, dataset: str, profile: str, *, seed: int = 0, device: str = "auto"
) -> Experiment:
    """The configuration of one training.

    Args:
        name: one of `EXPERIMENTS`.
        dataset: one of `cstn_lib.data.DATASETS`.
        profile: one of `PROFILES`.
        device: decides the precision, bfloat16 where that is fast.

    Raises:
        InputError: a name is unknown.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    if dataset not in DATASETS:
        raise unknown_name("dataset", dataset, DATASETS)
    if seed < 0:
        raise InputError(f"seed {seed}: expected 0 or more")
    size = profile_named(profile)
    precision = "bfloat16" if supports_bfloat16(device) else "float32"
    if name == "pretext":
        return _pretext(size, precision, seed)
    method = "cstn" if name in STUDIES else name
    alpha = ALPHA_SCALE.get(dataset, PHOTO_ALPHA_SCALE)
    if dataset == "tiny-imagenet":
        data = DataConfig(dataset, train=size.photos, val=size.photos, test=size.photos)
        model = ModelConfig(weights="none", levels=PHOTO_LEVELS, head=HEADS[method])
        epochs, warmup_epochs = size.photo_epochs, size.photo_warmup_epochs
    else:
        data = DataConfig(dataset, train=size.train, val=size.val, test=size.test)
        model = ModelConfig(levels=BIRD_LEVELS, frozen_stages=2, head=HEADS[method])
        epochs, warmup_epochs = size.epochs, size.warmup_epochs
    if name in LEVEL_STUDY:
        voting = tuple(level for level in model.levels if level.name == LEVEL_STUDY[name])
        model = replace(model, levels=voting)
    training = TrainingConfig(
        epochs=epochs,
        warmup_epochs=warmup_epochs if method in ("cstn", "stn", "deform") else 0,
        lambda_theta=LAMBDA_STUDY.get(name, LAMBDA_THETA if method in ("cstn", "stn") else 0.0),
        alpha_scale=ALPHA_STUDY.get(name, alpha if method in ("cstn", "plain", "deform") else 0.0),
        precision=precision,
    )
    return Experiment(name, data, model, training, seed)


def _pretext(size: Profile, precision: str, seed: int) -> Experiment:
    """The small backbone's pretraining: other birds, classified as CAM does."""
    data = DataConfig(
        "birds-cub", train=size.train, val=size.val, test=size.test, pretext=size.pretext
    )
    model = ModelConfig(weights="none", head="cam")
    training = TrainingConfig(epochs=12, warmup_epochs=0, lr=4e-3, precision=precision)
    return Experiment("pretext", data, model, training, seed)
