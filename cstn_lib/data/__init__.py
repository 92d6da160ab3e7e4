"""The data sets, behind one door: `open_split`.

Whatever its source, a split comes as an `ImageSet`. The three splits mean the same everywhere:
``train`` gives labels only; ``val`` has boxes and is where hyper-parameters are chosen (the
``train-fullsup`` protocol of Choe et al., "Evaluating Weakly Supervised Object Localization Methods
Right", 2020); ``test`` is what is reported, once.
"""

from __future__ import annotations

from dataclasses import dataclass

from cstn_lib.data.birds.dataset import (
    BirdsConfig,
    open_birds,
)
from cstn_lib.data.images import ImageSet
from cstn_lib.data.photos.cub import CUB
from cstn_lib.data.photos.folder import Folder
from cstn_lib.data.photos.ilsvrc import ILSVRC
from cstn_lib.data.photos.imagenette import Imagenette
from cstn_lib.data.photos.reading import Reader, open_photos
from cstn_lib.data.photos.tiny_imagenet import TinyImageNet
from cstn_lib.support.errors import InputError, unknown_name
from cstn_lib.support.project import project_folder, user_path

__all__ = [
    "DATASETS",
    "READERS",
    "DataConfig",
    "ImageSet",
    "birds_config",
    "open_split",
]

READERS: dict[str, type[Reader]] = {
    reader.name: reader for reader in (Imagenette, TinyImageNet, CUB, ILSVRC, Folder)
}
"""The data sets that are read from a folder or archive of the user's."""

DATASETS = ("birds-cub", "birds-ilsvrc", *READERS)
"""``birds-*`` are drawn here."""


@dataclass(frozen=True)
class DataConfig:
    """Which images.

    Attributes:
        name: one of `DATASETS`.
        image_size: side in pixels of the square that every image is resized to.
        train, val, test, pretrain: images per split. Drawn data have exactly so many, read data at
            most so many; None means all there are and is for read data only.
        head_tell, parts_tell: of `BirdsConfig`.
        drawing: its seed.
    """

    name: str
    image_size: int = 80
    train: int | None = None
    val: int | None = None
    test: int | None = None
    pretrain: int | None = None
    head_tell: float = 0.0
    parts_tell: bool = True
    drawing: int = 0


def open_split(config: DataConfig, split: str, data_root: object = None) -> ImageSet:
    """Open one split, drawing or decoding it first where that has not been done.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``; drawn data also have ``"pretrain"``, birds of
            other classes for pretraining a backbone.
        data_root: folder or archive of a data set that is read, as
            `cstn_lib.support.project.user_path` takes it.

    Raises:
        InputError: the name or split is unknown, or the data are missing or damaged.
    """
    if config.name not in DATASETS:
        raise unknown_name("dataset", config.name, DATASETS)
    kept = project_folder("data")
    if config.name not in READERS:
        return open_birds(birds_config(config), split, kept)
    root = user_path(data_root)
    if root is None:
        raise InputError(f"dataset {config.name!r} needs its folder or archive: give data_root")
    return open_photos(
        READERS[config.name],
        root,
        split,
        image_size=config.image_size,
        data_dir=kept,
        limit=getattr(config, split, None),
    )


def birds_config(config: DataConfig) -> BirdsConfig:
    """The drawing options of a ``birds-*`` data set."""
    counts = {name: getattr(config, name) for name in ("train", "val", "test", "pretrain")}
    return BirdsConfig(
        boxes=config.name.removeprefix("birds-"),
        image_size=config.image_size,
        head_tell=config.head_tell,
        parts_tell=config.parts_tell,
        seed=config.drawing,
        **{name: count for name, count in counts.items() if count is not None},
    )
