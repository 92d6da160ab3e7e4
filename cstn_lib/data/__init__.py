"""The data sets, behind one door: `open_split`.

Whatever its source, a split comes as an `ImageSet`. The three splits mean the same everywhere:
``train`` gives labels only; ``val`` has boxes and is where hyper-parameters are chosen (the
``train-fullsup`` protocol of Choe et al., "Evaluating Weakly Supervised Object Localization Methods
Right", 2020); ``test`` is what is reported, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from cstn_lib.data.birds.dataset import (
    BirdsConfig,
    birds_fingerprint,
    birds_folder,
    class_names,
    open_birds,
)
from cstn_lib.data.images import ImageSet
from cstn_lib.data.photos.cub import CUB
from cstn_lib.data.photos.folder import Folder
from cstn_lib.data.photos.ilsvrc import ILSVRC
from cstn_lib.data.photos.reading import Reader, found_split, open_photos, stored_bytes
from cstn_lib.data.photos.tiny_imagenet import TinyImageNet
from cstn_lib.support.errors import InputError, unknown_name
from cstn_lib.support.project import project_folder, user_path

__all__ = [
    "DATASETS",
    "READERS",
    "DataConfig",
    "ImageSet",
    "SplitOutline",
    "birds_config",
    "open_split",
    "outline",
]

READERS: dict[str, type[Reader]] = {
    reader.name: reader for reader in (TinyImageNet, CUB, ILSVRC, Folder)
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
    if _is_drawn(config):
        return open_birds(birds_config(config), split, project_folder("data"))
    return open_photos(**_photo_arguments(config, split, data_root))


class SplitOutline(NamedTuple):
    """What can be said of a split before it is drawn or decoded.

    Attributes:
        images, classes: how many.
        missing_bytes: of pixels still to be written under ``data/``.
        fingerprint: of its `ImageSet`; None where the photos have to be read for it.
    """

    images: int
    classes: int
    missing_bytes: int
    fingerprint: str | None


def outline(config: DataConfig, split: str, data_root: object = None) -> SplitOutline:
    """Look at a split without drawing, decoding or writing anything; arguments as `open_split`.

    Raises:
        InputError: as `open_split`, but for damaged photos.
    """
    if _is_drawn(config):
        birds, classes = birds_config(config), len(class_names(split))
        images = getattr(birds, split)
        there = birds_folder(birds, split, project_folder("data")).is_dir()
        missing = 0 if there else images * config.image_size**2 * 3
        return SplitOutline(images, classes, missing, birds_fingerprint(birds, split))
    with found_split(**_photo_arguments(config, split, data_root)) as (_, found):
        if isinstance(found, ImageSet):
            return SplitOutline(len(found), found.num_classes, 0, found.fingerprint)
        missing = stored_bytes(found, config.image_size)
        return SplitOutline(len(found), len(found.class_names), missing, None)


def _is_drawn(config: DataConfig) -> bool:
    if config.name not in DATASETS:
        raise unknown_name("dataset", config.name, DATASETS)
    return config.name not in READERS


def _photo_arguments(config: DataConfig, split: str, data_root: object) -> dict[str, Any]:
    """Of `open_photos` and `found_split`."""
    root = user_path(data_root)
    if root is None:
        raise InputError(f"dataset {config.name!r} needs its folder or archive: give data_root")
    kept = {"data_dir": project_folder("data"), "limit": getattr(config, split, None)}
    photos = {"reader": READERS[config.name], "root": root, "split": split}
    return {**photos, "image_size": config.image_size, **kept}


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
