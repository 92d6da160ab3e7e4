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

import csv
import zlib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

import numpy as np
from torchvision import datasets

from cstn_lib.data.photos.order import hold_back
from cstn_lib.data.photos.photo_list import PhotoList
from cstn_lib.data.photos.reading import Photo, Reader
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
        found = [(folder, sorted(self.source.files(folder).items())) for folder in self._folders()]
        return [zlib.crc32(_table().encode()), found]

    def lasting_name(self, file: str) -> str:
        return file.rpartition("/")[2]

    def photos(self, split: str) -> PhotoList:
        source, expected = self.source, f"expected one of {', '.join(CLASSES)}"
        for folder in self._folders():
            if folder.rpartition("/")[2] not in CLASSES and any(
                map(is_photo, source.names(folder))
            ):
                source.fault("unknown label", f"no class of Imagenette, {expected}", folder)
        file_of: dict[str, str] = {}
        for folder in self._folders():
            for name in source.photos(folder) if folder.rpartition("/")[2] in CLASSES else ():
                first = file_of.setdefault(name, f"{folder}/{name}")
                if first != f"{folder}/{name}":
                    message = f"again, expected once (it is in {source.where(first)})"
                    source.fault("listed twice", message, f"{folder}/{name}")
        return self._train(file_of) if split == "train" else self._with_boxes(split, file_of)

    def _folders(self) -> Iterator[str]:
        for part in _PARTS:
            yield from (f"{part}/{name}" for name in self.source.folders(part))

    def _train(self, file_of: dict[str, str]) -> PhotoList:
        chosen = [file for name, file in file_of.items() if not _is_validation(name)]
        labels = [_label(file) for file in chosen]
        for label, wnid in enumerate(CLASSES):
            if label not in labels:
                message = f"no training image of {wnid}, expected {wnid}_*.JPEG"
                self.source.fault("class without image", message, "train")
        labels = np.array(labels, dtype=np.int64)
        return PhotoList.without_boxes(self.source, chosen, labels, list(CLASSES.values()))

    def _with_boxes(self, split: str, file_of: dict[str, str]) -> PhotoList:
        source, annotated = self.source, _annotated()
        there = [name for name in annotated if name in file_of]
        if not there:
            raise InputError(
                f"{source.top}: no validation image of ILSVRC in train or val, expected all "
                f"{len(annotated)} ILSVRC2012_val_*.JPEG of its classes: they are val and test"
            )
        for name, (wnid, _) in annotated.items():
            if name not in file_of:
                message = f"no {name}, expected it here or in train/{wnid}"
                source.fault("missing image", message, f"val/{wnid}")
        for name in filter(_is_validation, file_of):
            if name not in annotated:
                source.fault("no box", f"no box of it in {_TABLE}, expected one", file_of[name])
        found = []
        for name in there:
            wnid, photo = annotated[name]
            if _label(file_of[name]) == photo.label:
                found.append(photo._replace(file=file_of[name]))
            else:
                message = f"an image of {wnid}, expected in its folder"
                source.fault("unknown label", message, file_of[name])
        names = [self.lasting_name(photo.file) for photo in found]
        labels = np.array([photo.label for photo in found], dtype=np.int64)
        held = hold_back(names, labels, np.full(len(CLASSES), VAL_PER_CLASS))
        found = [photo for photo, val in zip(found, held, strict=True) if val == (split == "val")]
        return self.photo_list(split, found, list(CLASSES.values()), resized=True)


def _is_validation(name: str) -> bool:
    return name.startswith("ILSVRC2012_val_")


def _label(file: str) -> int:
    return list(CLASSES).index(file.split("/")[-2])


def _table() -> str:
    return (files(__package__) / _TABLE).read_text(encoding="utf-8")


@cache
def _annotated() -> dict[str, tuple[str, Photo]]:
    """WNID, and the photo without its place, of each image with boxes."""
    found: dict[str, tuple[str, Photo]] = {}
    lines = enumerate(_table().splitlines(), start=1)
    lines = [(number, line) for number, line in lines if not line.startswith("#")]
    rows = csv.DictReader(line for _, line in lines)
    for (number, _), row in zip(lines[1:], rows, strict=True):
        name = f"{row['image']}.JPEG"
        size = int(row["width"]), int(row["height"])
        photo = Photo(name, list(CLASSES).index(row["wnid"]), [], size)
        box = [float(row[end]) for end in ("x0", "y0", "x1", "y1")]
        boxes = found.setdefault(name, (row["wnid"], photo))[1].boxes
        boxes.append((box, f"{_TABLE}, line {number}"))
    return found
