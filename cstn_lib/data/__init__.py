"""The data sets, behind one door: `open_split`.

Whatever its source, a split comes as an `ImageSet`. The three splits mean the same everywhere:
``train`` gives labels only; ``val`` has boxes and is where hyper-parameters are chosen (the
``train-fullsup`` protocol of Choe et al., "Evaluating Weakly Supervised Object Localization Methods
Right", 2020); ``test`` is what is reported, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cstn_lib.data.birds import BirdsConfig, open_birds
from cstn_lib.data.cub import CUB
from cstn_lib.data.folder import Folder
from cstn_lib.data.ilsvrc import ILSVRC
from cstn_lib.data.images import ImageSet
from cstn_lib.data.reading import Reader, open_photos
from cstn_lib.data.tiny_imagenet import TinyImageNet
from cstn_lib.data.wsol_metadata import WSOLCub, WSOLIlsvrc, WSOLOpenImages
from cstn_lib.errors import InputError, unknown_name
from cstn_lib.project import project_folder

__all__ = ["DATASETS", "READERS", "DataConfig", "ImageSet", "birds_config", "open_split"]

READERS: dict[str, type[Reader]] = {
    reader.name: reader
    for reader in (TinyImageNet, CUB, ILSVRC, Folder, WSOLCub, WSOLIlsvrc, WSOLOpenImages)
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
        train, val, test, pretext: images a split. Drawn data have exactly so many, read data at
            most so many; None means all there are and is for read data only.
        head_tell: of `BirdsConfig`.
    """

    name: str
    image_size: int = 80
    train: int | None = None
    val: int | None = None
    test: int | None = None
    pretext: int | None = None
    head_tell: float = 0.0


def open_split(config: DataConfig, split: str, data_root: str | Path | None = None) -> ImageSet:
    """Open one split, drawing or decoding it first where that has not been done.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``; drawn data also have ``"pretext"``, birds of
            other classes for pretraining a backbone.
        data_root: folder or archive of a data set that is read.

    Raises:
        InputError: the name or split is unknown, or the data are missing or damaged.
    """
    data_dir = project_folder("data")
    if config.name.startswith("birds-") and config.name in DATASETS:
        return open_birds(birds_config(config), split, data_dir)
    if config.name in READERS:
        if not data_root:
            raise InputError(f"dataset {config.name!r} needs its folder or archive: give data_root")
        return open_photos(
            READERS[config.name],
            Path(data_root).expanduser(),
            split,
            image_size=config.image_size,
            data_dir=data_dir,
            limit=getattr(config, split, None),
        )
    raise unknown_name("dataset", config.name, DATASETS)


def birds_config(config: DataConfig) -> BirdsConfig:
    """The drawing options of a ``birds-*`` data set."""
    counts = {name: getattr(config, name) for name in ("train", "val", "test", "pretext")}
    return BirdsConfig(
        boxes=config.name.removeprefix("birds-"),
        image_size=config.image_size,
        head_tell=config.head_tell,
        **{name: count for name, count in counts.items() if count is not None},
    )
