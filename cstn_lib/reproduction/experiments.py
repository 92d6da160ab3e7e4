"""Every training of the project as a named configuration, and the profiles that size them.

Hyper-parameters are written down here and nowhere else: `RECIPES` holds what all methods share on a
kind of data, `PROFILES` how much work is done, and the studies what their names change. Those of
the small network were chosen on the val splits, those of the ``paper`` profile are the published
ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cstn_lib.config import PAPER_LEVELS, LevelConfig, ModelConfig
from cstn_lib.data import DATASETS, READERS, DataConfig
from cstn_lib.data.photos.reading import SPLITS
from cstn_lib.losses import authors_weight
from cstn_lib.models import HEADS
from cstn_lib.reproduction.paper import STANDS_FOR
from cstn_lib.support.errors import InputError, unknown_name
from cstn_lib.training.engine import TrainingConfig, check_precision


@dataclass(frozen=True)
class Experiment:
    """One training: everything it depends on but the content of the data."""

    name: str
    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    seed: int

    @property
    def training_split(self) -> str:
        """The split whose images and labels it learns from."""
        return "pretrain" if self.name == "pretrain" else "train"


@dataclass(frozen=True)
class Profile:
    """How much work: the same experiments in four sizes, of which the last is the paper's.

    Attributes:
        name: as given on the command line.
        seeds: how many seeds of each experiment.
        train, val, test: images of the embedded data sets.
        pretrain: images that pretrain the small backbone.
        epochs, warmup_epochs: of trainings on the embedded data sets, whose backbone is pretrained.
        photos: at most so many photographs of each split of a read data set; None: all.
        photo_epochs, photo_warmup_epochs: of trainings on photographs, which start from nothing.
        published: the paper's network and settings instead of the small ones, see `RECIPES`.
    """

    name: str
    seeds: int = 1
    train: int = 4000
    val: int = 600
    test: int = 1200
    pretrain: int = 6000
    epochs: int = 4
    warmup_epochs: int = 1
    photos: int | None = None
    photo_epochs: int = 6
    photo_warmup_epochs: int = 2
    published: bool = False


_FEW = {"train": 48, "val": 24, "test": 48, "pretrain": 48, "photos": 60}
_LONG = {"epochs": 20, "warmup_epochs": 0, "photo_epochs": 20, "photo_warmup_epochs": 0}
PROFILES = {
    "smoke": Profile("smoke", **_FEW, epochs=2, photo_epochs=2, photo_warmup_epochs=1),
    "quick": Profile("quick"),
    "cpu": Profile("cpu", seeds=3),
    "paper": Profile("paper", **_LONG, published=True),
}

LEVEL_STUDY = {"cstn-level-4": "4", "cstn-level-5": "5"}
"""Figure 6 and 8: the only level that votes."""

LAMBDA_STUDY = {
    f"cstn-lambda-{v}": float(v) for v in ("0", "1e-5", "3e-5", "1e-4", "3e-4", "1e-3", "1e-2")
}
"""Table III: lambda per example, as in Eq. 4; in the ``paper`` profile as printed. ``cstn`` itself
stands at its recipe's, which `seeded_experiments` does not train twice."""

ALPHA_STUDY = {f"cstn-alpha-{v}": float(v) for v in ("0", "1", "50")}
"""How widely alpha can vary; ``cstn`` itself stands at its recipe's."""

STUDIES = (*LEVEL_STUDY, *LAMBDA_STUDY, *ALPHA_STUDY)

EXPERIMENTS = (*HEADS, *STUDIES, "pretrain")
"""``cstn``: the complete system of section III-E. ``plain``, ``cam``, ``has``, ``acol``, ``spg``,
``adl``, ``stn``, ``deform``: what it is compared with (`cstn_lib.baselines`), on the same backbone,
images, augmentation and schedule, by their heads. ``cstn-...``: ``cstn`` with one thing changed.
``pretrain``: the small backbone's pretraining."""

# default boxes of 0.47 and 0.56 of the image's side; photographs are filled more: 0.79 and 0.78
BIRD_LEVELS = (LevelConfig("4", 4, dilation=3), LevelConfig("5", 6))
PHOTO_LEVELS = (LevelConfig("4", 6, dilation=3), LevelConfig("5", 8))
LAMBDA_THETA = 1e-4


@dataclass(frozen=True)
class Recipe:
    """What all methods share on one kind of data.

    Attributes:
        model: of ``cstn``; another method has another head.
        training: of ``cstn``, but for its epochs; a method without theta or without levels does
            without the weight of that term.
        image_size: side in pixels of the square images.
        unit: what the lambdas and alphas of the studies are multiples of.
    """

    model: ModelConfig
    training: TrainingConfig
    image_size: int = 80
    unit: float = 1.0


# The settings of the authors' code, every method on the same. Two things are ours: the width of the
# global STN's localization network, and the 3 x 3 convolution that CSTN's begin with
# (`cstn_lib.cstn.LocalizationNetwork`). There is no warm-up and the localization networks learn as
# fast as the rest. The learning rate is constant: its published steps come at epoch 20 and later.
# The other methods' own papers differ in more than the schedule: they stand on VGG-16, GoogLeNet,
# Inception-v3 or ResNet-50-SE, most of them with a finer last map than the 10 x 10 cells here.
def _published(printed_lambda: float) -> Recipe:
    model = ModelConfig(
        backbone="resnet101",
        weights="imagenet",
        levels=PAPER_LEVELS,
        channels=512,
        localization_channels=512,
        frozen_stages=2,
    )
    training = TrainingConfig(
        batch_size=16,
        optimizer="sgd",
        lr=1e-3,
        localization_lr=1.0,
        weight_decay=1e-4,
        schedule="constant",
        lambda_theta=authors_weight(printed_lambda),
        alpha_scale=authors_weight(5.0),
    )
    return Recipe(model, training, image_size=320, unit=authors_weight(1))


BIRD_MODEL = ModelConfig(levels=BIRD_LEVELS, frozen_stages=2)
RECIPES = {
    "birds-cub": Recipe(BIRD_MODEL, TrainingConfig(lambda_theta=LAMBDA_THETA, alpha_scale=5.0)),
    "birds-ilsvrc": Recipe(BIRD_MODEL, TrainingConfig(lambda_theta=LAMBDA_THETA, alpha_scale=16.0)),
    "photos": Recipe(
        ModelConfig(weights="none", levels=PHOTO_LEVELS),
        TrainingConfig(lambda_theta=LAMBDA_THETA, alpha_scale=0.5),
    ),
    "paper, CUB-200-2011": _published(1e-4),
    "paper, ImageNet": _published(1e-3),
}
"""By the data set, ``photos`` for all that are read; in the ``paper`` profile by the paper's data
set whose place it takes (`cstn_lib.reproduction.paper.STANDS_FOR`), and like ImageNet where it
takes none's."""


def profile_named(name: str) -> Profile:
    """The profile of that name.

    Raises:
        InputError: there is none.
    """
    if name not in PROFILES:
        raise unknown_name("profile", name, PROFILES)
    return PROFILES[name]


def make_experiment(
    name: str, dataset: str, profile: str, *, seed: int = 0, precision: str = "float32"
) -> Experiment:
    """The configuration of one training.

    Args:
        name: one of `EXPERIMENTS`.
        dataset: one of `cstn_lib.data.DATASETS`.
        profile: one of `PROFILES`.
        precision: of the training, part of its name; what is published is float32.

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
    check_precision(precision)
    if name == "pretrain":
        return _pretrain(size, precision, seed)
    method = "cstn" if name in STUDIES else name
    read = dataset in READERS
    recipe = RECIPES.get(dataset, RECIPES["photos"])
    if size.published:
        recipe = RECIPES[f"paper, {STANDS_FOR.get(dataset, 'ImageNet')}"]
    images = {split: size.photos if read else getattr(size, split) for split in SPLITS}
    data = DataConfig(dataset, image_size=recipe.image_size, **images)
    model = replace(recipe.model, head=method)
    if name in LEVEL_STUDY:
        voting = tuple(level for level in model.levels if level.name == LEVEL_STUDY[name])
        model = replace(model, levels=voting)
    own = {
        "epochs": size.photo_epochs if read else size.epochs,
        "warmup_epochs": size.photo_warmup_epochs if read else size.warmup_epochs,
        "precision": precision,
    }
    if method not in ("cstn", "stn", "deform"):  # nothing moves
        own["warmup_epochs"] = 0
    if method not in ("cstn", "stn"):  # no theta
        own["lambda_theta"] = 0.0
    if method not in ("cstn", "plain", "deform"):  # no levels
        own["alpha_scale"] = 0.0
    if name in LAMBDA_STUDY:
        own["lambda_theta"] = recipe.unit * LAMBDA_STUDY[name]
    if name in ALPHA_STUDY:
        own["alpha_scale"] = recipe.unit * ALPHA_STUDY[name]
    return Experiment(name, data, model, replace(recipe.training, **own), seed)


def seeded_experiments(
    names: Sequence[str], dataset: str, profile: str, *, seeds: int = 0
) -> list[Experiment]:
    """`make_experiment` of each name, seed after seed of each.

    A step of a study at which ``cstn`` itself stands is left out: it is ``cstn``.

    Args:
        seeds: how many; 0 or None: as many as the profile has.

    Raises:
        InputError: a name is unknown, or `seeds` no whole number (of any type: papermill makes a
            float of ``-p seeds 1.0``).
    """
    try:
        count = float(seeds or 0)
    except (TypeError, ValueError):
        count = -1.0
    if not (count.is_integer() and count >= 0) or isinstance(seeds, bool):
        raise InputError(f"seeds {seeds}: expected a whole number, 0 or more")
    each = range(int(count) or profile_named(profile).seeds)
    cstn = make_experiment("cstn", dataset, profile)
    own = [
        name
        for name in names
        if name == "cstn" or replace(make_experiment(name, dataset, profile), name="cstn") != cstn
    ]
    return [make_experiment(name, dataset, profile, seed=seed) for name in own for seed in each]


def _pretrain(size: Profile, precision: str, seed: int) -> Experiment:
    """The small backbone's pretraining: other birds, classified as CAM does."""
    data = DataConfig(
        "birds-cub", train=size.train, val=size.val, test=size.test, pretrain=size.pretrain
    )
    model = ModelConfig(weights="none", head="cam")
    training = TrainingConfig(epochs=12, warmup_epochs=0, lr=4e-3, precision=precision)
    return Experiment("pretrain", data, model, training, seed)
