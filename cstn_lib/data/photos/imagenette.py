"""Imagenette: photographs of ten classes of ILSVRC, of which 500 have boxes.

A part of the paper's ImageNet (section IV-A) that anyone may fetch. The layout is that of the
archives of `torchvision.datasets.Imagenette`, of any size; some of the training images will do:

    train/WNID/*.JPEG    val/WNID/*.JPEG

Its own two splits mix the 500 official validation images of these classes with training images.
Here those 500, wherever they lie, are ``val`` (20 of each class, whose boxes may be used to choose
hyper-parameters) and ``test`` (30 of each class), and all others are ``train``: nothing that
ImageNet calls validation is trained on.

The boxes come with the library (``imagenette_boxes.csv``, which says where they are from), in
pixels of the images that ILSVRC distributes. Photos are smaller: each must have the shape of its
original or be a square, to which it was squashed.
"""

from __future__ import annotations

import zlib
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd
from torchvision import datasets

from cstn_lib.data.photos.order import place_in_class
from cstn_lib.data.photos.photo_list import Photo, measured
from cstn_lib.data.photos.reading import Reader
from cstn_lib.data.photos.sources import is_photo
from cstn_lib.support.errors import InputError

CLASSES = {wnid: names[0] for wnid, names in sorted(datasets.Imagenette._WNID_TO_CLASS.items())}
"""Names by WordNet id (WNID); the label of a class is its place here."""

VAL_PER_CLASS = 20

_TABLE = "imagenette_boxes.csv"
_PARTS = ("train", "val")


class Imagenette(Reader):
    """The folder of one of the archives, one that holds it, or a zip of it."""

    name = "imagenette"
    what = "Imagenette"
    marker = "train/"
    inner = ("imagenette2", "imagenette2-320", "imagenette2-224", "imagenette2-160")

    def identity(self, split: str) -> object:
        return [zlib.crc32(_table().encode()), self.source.marks(self._folders())]

    def lasting_name(self, file: str) -> str:
        return file.rpartition("/")[2]

    def photos(self, split: str) -> tuple[list[Photo], list[str]]:
        source = self.source
        file_of: dict[str, str] = {}
        for folder in self._folders():
            if folder.rpartition("/")[2] not in CLASSES:
                if any(map(is_photo, source.names(folder))):
                    message = f"no class of Imagenette, expected one of {', '.join(CLASSES)}"
                    source.fault("unknown label", message, folder)
                continue
            for file in source.photos(folder):
                first = file_of.setdefault(self.lasting_name(file), file)
                if first != file:
                    message = f"again, expected once (it is in {source.where(first)})"
                    source.fault("listed twice", message, file)
        if split == "train":
            found = self._train(file_of)
        else:
            found = self._with_boxes(split, file_of)
            found = measured(source, found, f"sizes of {self.name} {split}", resized=True)
        return found, list(CLASSES.values())

    def _folders(self) -> list[str]:
        return [f"{part}/{name}" for part in _PARTS for name in self.source.folders(part)]

    def _train(self, file_of: dict[str, str]) -> list[Photo]:
        found = [
            Photo(file, _label(file)) for name, file in file_of.items() if not _is_validation(name)
        ]
        present = {photo.label for photo in found}
        for label, wnid in enumerate(CLASSES):
            if label not in present:
                message = f"no training image of {wnid}, expected {wnid}_*.JPEG"
                self.source.fault("class without image", message, "train")
        return found

    def _with_boxes(self, split: str, file_of: dict[str, str]) -> list[Photo]:
        source, annotated, wnids = self.source, _annotated(), list(CLASSES)
        if not annotated.keys() & file_of:
            raise InputError(
                f"{source.top}: no validation image of ILSVRC in train or val, expected all "
                f"{len(annotated)} ILSVRC2012_val_*.JPEG of its classes: they are val and test"
            )
        for name in filter(_is_validation, file_of):
            if name not in annotated:
                source.fault("no box", f"no box of it in {_TABLE}, expected one", file_of[name])
        found = []
        for name, photo in annotated.items():
            wnid = wnids[photo.label]
            if name not in file_of:
                message = f"no {name}, expected it here or in train/{wnid}"
                source.fault("missing image", message, f"val/{wnid}")
            elif _label(file_of[name]) == photo.label:
                found.append(photo._replace(file=file_of[name]))
            else:
                message = f"an image of {wnid}, expected in its folder"
                source.fault("unknown label", message, file_of[name])
        val = place_in_class(*self.names_and_labels(found)) < VAL_PER_CLASS
        return [found[row] for row in np.flatnonzero(val == (split == "val"))]


def _is_validation(name: str) -> bool:
    return name.startswith("ILSVRC2012_val_")


def _label(file: str) -> int:
    return list(CLASSES).index(file.split("/")[-2])


def _table() -> str:
    return (files(__package__) / _TABLE).read_text(encoding="utf-8")


@cache
def _annotated() -> dict[str, Photo]:
    """By its name, each image with boxes, as a photo without its place."""
    found: dict[str, Photo] = {}
    for row in pd.read_csv(files(__package__) / _TABLE, comment="#").itertuples():
        name, label = f"{row.image}.JPEG", list(CLASSES).index(row.wnid)
        photo = found.setdefault(name, Photo(name, label, [], [], (row.width, row.height)))
        photo.boxes.append([row.x0, row.y0, row.x1, row.y1])
        photo.places.append(f"{_TABLE}, box {row.Index + 1}")
    return found
