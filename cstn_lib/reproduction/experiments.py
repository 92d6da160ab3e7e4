"""Every training of the project as a named configuration, and the profiles that size them.

Hyper-parameters are written down here, but for those that stand at their default in
`cstn_lib.config`: `RECIPES` holds what all methods share on a kind of data, `PROFILES` how much
work is done, and the studies what their names change. Those of the small network were chosen on the
val splits, those of the ``paper`` profile are the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from cstn_lib.backbones import LITE
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
    """One training: everything it depends on but the content of the data.

    With a teacher it is self-training: it starts from the teacher's network, whose fused boxes on
    the training images the localization networks learn.
    """

    name: str
    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    seed: int
    teacher: Experiment | None = None

    @property
    def training_split(self) -> str:
        """The split whose images and labels it learns from."""
        return "pretrain" if self.name == "pretrain" else "train"


@dataclass(frozen=True)
class Profile:
    """How much work: the same experiments in four sizes, of which the last is the paper's.

    Attributes:
        name: as given on the command line.
        seeds: how many seeds of `MOST_SEEDS`.
        other_seeds: how many of each other method.
        study_seeds: how many of each step of a study, such as a value of lambda.
        drawing: seed of the embedded images; ``cpu`` has its own, so that its test images were not
            looked at before all was chosen.
        train, val, test: images of the embedded data sets.
        pretrain: images that pretrain the small backbone.
        epochs, warmup_epochs: of trainings whose backbone is pretrained.
        photos: at most so many photographs of each split of a read data set; None: all.
        photo_epochs, photo_warmup_epochs: of trainings on photographs that start from nothing.
        published: the paper's network and settings instead of the small ones, see `RECIPES`.
    """

    name: str
    seeds: int = 1
    other_seeds: int = 1
    study_seeds: int = 1
    drawing: int = 0
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
    "cpu": Profile(
        "cpu", seeds=10, other_seeds=3, study_seeds=5, drawing=2020, val=1000, test=3000
    ),
    "paper": Profile("paper", **_LONG, published=True),
}

LEVEL_STUDY = {"cstn-level-4": "4", "cstn-level-5": "5"}
"""Figure 6 and 8: the only level that votes."""

LAMBDA_STUDY = {f"cstn-lambda-{v}": float(v) for v in ("0", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1")}
"""Table III: lambda per example, as in Eq. 4; in the ``paper`` profile as printed. ``cstn`` itself
stands at its recipe's, which `seeded_experiments` does not train twice."""

ALPHA_STUDY = {f"cstn-alpha-{v}": float(v) for v in ("0", "0.3", "1", "10")}
"""How widely alpha can vary; ``cstn`` itself stands at its recipe's."""

EQUATION_4, PLAIN_EQUATION_4 = "cstn-equation-4", "plain-equation-4"
"""The objective as the paper has it, without the levels' own losses."""

SELF_TRAINED = "cstn-self-trained"
"""What fusion finds, in one pass and at the most probable location: not in the paper."""

TRAINED_LONGER = "cstn-trained-longer"
"""The same but for the boxes: as many steps of the same parameters, by the labels alone."""

TELLS = ("0", "1", "only")
COLLAPSE_STUDY = {
    f"cstn-head-{tell}-{rate}-lambda-{weight}": (tell, rate, float(weight))
    for tell in TELLS
    for rate in ("slow", "fast")
    for weight in ("0", "1e-3", "1e-1")
}
"""Where boxes collapse (Fig. 7): how often the head alone tells the class (``only``: nothing else
does), how the localization networks learn (``slow``: as the recipe has it; ``fast``: as fast as the
rest and from the first step, as the paper's), and lambda."""


def collapse_names(profile: str, dataset: str = "birds-cub") -> tuple[str, ...]:
    """What of `COLLAPSE_STUDY` a profile trains, a seed each: all in ``cpu``, else four corners.

    Only drawn images can be drawn with another mark: elsewhere there is nothing to train.
    """
    if dataset in READERS:
        return ()
    if profile == "cpu":
        return tuple(COLLAPSE_STUDY)
    ends = product(("0", "only"), ("0", "1e-1"))
    return tuple(f"cstn-head-{tell}-fast-lambda-{weight}" for tell, weight in ends)


STUDIES = (
    *LEVEL_STUDY,
    *LAMBDA_STUDY,
    *ALPHA_STUDY,
    EQUATION_4,
    PLAIN_EQUATION_4,
    SELF_TRAINED,
    TRAINED_LONGER,
    *COLLAPSE_STUDY,
)

EXPERIMENTS = (*HEADS, *STUDIES, "pretrain")
"""``cstn``: the complete system of section III-E. ``plain``, ``cam``, ``has``, ``acol``, ``spg``,
``adl``, ``stn``, ``deform``: what it is compared with (`cstn_lib.baselines`), on the same backbone,
images, augmentation and schedule, by their heads. ``METHOD-...``: that method with one thing
changed. ``pretrain``: the small backbone's pretraining."""

LAMBDA_THETA = 1e-4
MOST_SEEDS = ("cstn", "plain", "cam", SELF_TRAINED, TRAINED_LONGER)
"""What the paper's first question is about: CSTN, without it, and the usual way; and what starts
from CSTN."""
VOTING = ("cstn", "plain", "deform")
"""Methods whose locations vote through a window on each level."""


def small_levels(kernel_size: int) -> tuple[LevelConfig, LevelConfig]:
    """One kernel size at two scales: 7 has windows of 0.32 and 0.67 of an 80-pixel image's side."""
    return LevelConfig("4", kernel_size, stride=2), LevelConfig("5", kernel_size)


def photo_levels(
    kernel_size: int, last: int, *, stride: int = 1
) -> tuple[LevelConfig, LevelConfig]:
    """Windows on the 14 x 14 and 7 x 7 maps of a 224-pixel image: 10 and 6 are .69 and .83 of its
    side."""
    return LevelConfig("4", kernel_size, stride=stride), LevelConfig("5", last)


@dataclass(frozen=True)
class Recipe:
    """What all methods share on one kind of data.

    Attributes:
        model: of ``cstn``; another method has another head. One without votes has the whole small
            backbone instead of the pooled one.
        training: of ``cstn``, but for its epochs; a method without theta or without levels does
            without the weight of that term.
        image_size: side in pixels of the square images.
        unit: what the lambdas and alphas of the studies are multiples of.
        own: by method, its fields of `model` and `training` that were chosen for it alone.
    """

    model: ModelConfig
    training: TrainingConfig
    image_size: int = 80
    unit: float = 1.0
    own: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


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


def _small(kernel_size: int, **model: object) -> ModelConfig:
    levels = small_levels(kernel_size)
    return ModelConfig(backbone="small-pooled", pyramid="lateral", levels=levels, **model)


_SMALL_TRAINING = TrainingConfig(
    localization_lr=0.3, lambda_theta=LAMBDA_THETA, alpha_scale=0.1, level_weight=1.0
)
RECIPES = {
    "birds-cub": Recipe(
        _small(7, frozen_stages=2),
        _SMALL_TRAINING,
        own={
            "deform": {"levels": small_levels(8), "alpha_scale": 0.0},
            "stn": {"lr": 4e-3, "first_frame": 0.65, "lambda_theta": 1e-3},
            "cam": {"epochs": 8},
            "has": {"lr": 4e-3, "epochs": 8, "frozen_stages": 0},
            "acol": {"lr": 1e-3},
            "spg": {"epochs": 8, "frozen_stages": 0},
        },
    ),
    "birds-ilsvrc": Recipe(
        _small(8, frozen_stages=2),
        _SMALL_TRAINING,
        own={
            "deform": {"lr": 4e-3, "levels": small_levels(7), "alpha_scale": 0.0},
            "stn": {"first_frame": 0.65, "localization_lr": 0.03, "lambda_theta": 1e-2},
            "has": {"lr": 4e-3, "frozen_stages": 0},
            "acol": {"lr": 1e-3, "frozen_stages": 0},
            "spg": {"lr": 1e-3, "epochs": 8, "frozen_stages": 0},
        },
    ),
    "imagenette": Recipe(
        ModelConfig(
            backbone=LITE,
            weights="imagenet",
            pyramid="lateral",
            levels=photo_levels(11, 6),
            frozen_stages=1,  # all of it
        ),
        TrainingConfig(
            lr=1e-3, weight_decay=1e-2, lambda_theta=LAMBDA_THETA, alpha_scale=0.5, level_weight=0.0
        ),
        image_size=224,
        # they need the images, not the maps that are kept: 1 minute an epoch for HaS, 2 for SPG, 5
        # for the global STN
        own={
            **{method: {"epochs": 2} for method in ("has", "spg", "stn")},
            **{method: {"lr": 8e-3, "epochs": 1} for method in ("cam", "adl")},
            "deform": {
                "levels": photo_levels(10, 5),
                "alpha_scale": 0.0,
                "localization_lr": 0.03,
            },
            "plain": {
                "levels": photo_levels(10, 6, stride=2),
                "alpha_scale": 0.1,
                "level_weight": 1.0,
                "lr": 2e-3,
                "epochs": 6,
            },
            "cstn": {
                "levels": photo_levels(11, 5),
                "alpha_scale": 0.0,
                "lr": 2e-3,
                "epochs": 6,
                "localization_lr": 0.03,
                "lambda_theta": 3e-4,
            },
        },
    ),
    "photos": Recipe(_small(8, weights="none"), _SMALL_TRAINING),
    "paper, CUB-200-2011": _published(1e-4),
    "paper, ImageNet": _published(1e-3),
}
"""By the data set, ``photos`` for all others that are read; in the ``paper`` profile by the paper's
data set whose place it takes (`cstn_lib.reproduction.paper.STANDS_FOR`), and like ImageNet where it
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
    name: str,
    dataset: str,
    profile: str,
    *,
    seed: int = 0,
    precision: str = "float32",
    own: bool = True,
) -> Experiment:
    """The configuration of one training.

    Args:
        name: one of `EXPERIMENTS`.
        dataset: one of `cstn_lib.data.DATASETS`.
        profile: one of `PROFILES`.
        precision: of the training, part of its name; what is published is float32.
        own: whether with the settings that were chosen for the method alone; False: with those that
            all share, from which `cstn_lib.reproduction.search` starts.

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
    method = _method_of(name)
    read = dataset in READERS
    recipe = _recipe(dataset, size)
    images = {split: size.photos if read else getattr(size, split) for split in SPLITS}
    drawing = 0 if read else size.drawing
    data = DataConfig(dataset, image_size=recipe.image_size, drawing=drawing, **images)
    if name in COLLAPSE_STUDY:
        tell = COLLAPSE_STUDY[name][0]
        only = tell == "only"
        data = replace(data, head_tell=1.0 if only else float(tell), parts_tell=not only)
    from_nothing = recipe.model.weights == "none"
    sizes = {
        "epochs": size.photo_epochs if from_nothing else size.epochs,
        "warmup_epochs": size.photo_warmup_epochs if from_nothing else size.warmup_epochs,
        "precision": precision,
    }
    chosen = dict(recipe.own.get(method, {}) if own else {})
    if "epochs" in chosen:  # of the profile that the choice was made in
        chosen["epochs"] = max(1, chosen["epochs"] * size.epochs // PROFILES["cpu"].epochs)
    fields = {**sizes, **_of_method(method, recipe), **chosen}
    levels = fields.get("levels", recipe.model.levels)
    fields |= _of_study(name, recipe.unit, levels)
    configs = with_fields(recipe.model, recipe.training, fields)
    if name not in (SELF_TRAINED, TRAINED_LONGER):
        return Experiment(name, data, *configs, seed)
    teacher = make_experiment("cstn", dataset, profile, seed=seed, precision=precision, own=own)
    return Experiment(name, data, *configs, seed, teacher)


def _method_of(name: str) -> str:
    """The method that an experiment is, or changes one thing of."""
    return name.partition("-")[0]


def _recipe(dataset: str, profile: Profile) -> Recipe:
    if profile.published:
        return RECIPES[f"paper, {STANDS_FOR.get(dataset, 'ImageNet')}"]
    return RECIPES.get(dataset, RECIPES["photos"])


def _of_method(method: str, recipe: Recipe) -> dict[str, object]:
    """What a method has or does without."""
    fields: dict[str, object] = {"head": method}
    if method not in ("cstn", "stn", "deform"):  # nothing moves
        fields["warmup_epochs"] = 0
    if method not in ("cstn", "stn"):  # no theta
        fields["lambda_theta"] = 0.0
    if method not in VOTING:  # no levels
        fields |= {"alpha_scale": 0.0, "level_weight": 0.0}
        if recipe.model.backbone == "small-pooled":
            fields["backbone"] = "small"
    return fields


def _of_study(name: str, unit: float, levels: tuple[LevelConfig, ...]) -> dict[str, object]:
    """What a study changes in its method, whose levels are given; `unit`: see `Recipe`."""
    if name in LEVEL_STUDY:
        voting = tuple(v for v in levels if v.name == LEVEL_STUDY[name])
        return {"levels": voting, "alpha_scale": 0.0, "level_weight": 0.0}
    if name in LAMBDA_STUDY:
        return {"lambda_theta": unit * LAMBDA_STUDY[name]}
    if name in ALPHA_STUDY:
        return {"alpha_scale": unit * ALPHA_STUDY[name]}
    if name in COLLAPSE_STUDY:
        _, rate, weight = COLLAPSE_STUDY[name]
        fast = {"localization_lr": 1.0, "warmup_epochs": 0} if rate == "fast" else {}
        return {"lambda_theta": unit * weight, **fast}
    if name in (SELF_TRAINED, TRAINED_LONGER):
        steps = {"lr": 1e-3, "localization_lr": 1.0, "warmup_epochs": 0}
        return steps | {"box_weight": float(name == SELF_TRAINED)}
    return {"level_weight": 0.0} if name in (EQUATION_4, PLAIN_EQUATION_4) else {}


def with_fields(
    model: ModelConfig, training: TrainingConfig, chosen: Mapping[str, object]
) -> tuple[ModelConfig, TrainingConfig]:
    """Both with these fields changed, each in the one that has it."""
    of_model = {name: value for name, value in chosen.items() if hasattr(model, name)}
    of_training = {name: value for name, value in chosen.items() if name not in of_model}
    return replace(model, **of_model), replace(training, **of_training)


def seeded_experiments(
    names: Sequence[str], dataset: str, profile: str, *, seeds: int = 0
) -> list[Experiment]:
    """`make_experiment` of each name, seed after seed of each.

    A step of a study that changes nothing is left out: it is its method.

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
    size = profile_named(profile)

    def changes(name: str, method: str) -> bool:
        ours, theirs = (make_experiment(n, dataset, profile) for n in (name, method))
        return replace(ours, name=method) != theirs

    own = [n for n in names if n == _method_of(n) or changes(n, _method_of(n))]
    default = dict.fromkeys(own, size.other_seeds) | dict.fromkeys(STUDIES, size.study_seeds)
    default |= dict.fromkeys(MOST_SEEDS, size.seeds)
    return [
        make_experiment(name, dataset, profile, seed=seed)
        for name in own
        for seed in range(int(count) or default[name])
    ]


def _pretrain(size: Profile, precision: str, seed: int) -> Experiment:
    """The small backbone's pretraining: other birds, classified as CAM does."""
    data = DataConfig(
        "birds-cub", train=size.train, val=size.val, test=size.test, pretrain=size.pretrain
    )
    model = ModelConfig(weights="none", head="cam")
    training = TrainingConfig(epochs=12, warmup_epochs=0, lr=4e-3, precision=precision)
    return Experiment("pretrain", data, model, training, seed)
