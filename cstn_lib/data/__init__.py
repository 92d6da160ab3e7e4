"""The data sets, behind one door: `open_split`.

Whatever its source, a split comes as an `ImageSet`. The three splits mean the same everywhere:
``train`` gives labels only; ``val`` has boxes and is where hyper-parameters are chosen (the
``train-fullsup`` protocol of Choe et al., "Evaluating Weakly Supervised Object Localization Methods
Right", 2020); ``test`` is what is reported, once.
"""

from __future__ import annotations

from cstn_lib.data.birds.dataset import open_birds
from cstn_lib.data.config import DataConfig
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
    "open_split",
]

READERS: dict[str, type[Reader]] = {
    reader.name: reader for reader in (Imagenette, TinyImageNet, CUB, ILSVRC, Folder)
}
"""The data sets that are read from a folder or archive of the user's."""

DATASETS = ("birds-cub", "birds-ilsvrc", *READERS)
"""``birds-*`` are drawn here."""


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
        return open_birds(config, split, kept)
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
