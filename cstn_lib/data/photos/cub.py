"""CUB-200-2011: birds of 200 species, one box per image, as distributed.

The fine-grained data set of the paper's experiments (section IV-A). The layout is that of the
archive:

    images.txt                 image number, path below images/
    classes.txt                class number, name
    image_class_labels.txt     image number, class number
    train_test_split.txt       image number, 1 for training or 0 for test
    bounding_boxes.txt         image number, x, y, width, height; pixels, with decimals
    images/NNN.Class_name/*.jpg

``test`` is the official test part. ``train`` and ``val`` share the official training part: a tenth
of each class is held back as ``val`` (`cstn_lib.data.photos.order`), whose boxes may be used to
choose hyper-parameters; the rest is ``train``, of which learning sees the labels alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from cstn_lib.data.photos.faults import Faults, quoted
from cstn_lib.data.photos.photo_list import PhotoList
from cstn_lib.data.photos.reading import Photo, Reader
from cstn_lib.data.photos.sources import is_safe
from cstn_lib.data.photos.text_table import Line
from cstn_lib.support.errors import InputError

_LABELS, _PARTS, _BOXES = "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"
_COLUMNS = {
    "images.txt": ("image number", "path"),
    "classes.txt": ("class number", "name"),
    _LABELS: ("image number", "class number"),
    _PARTS: ("image number", "1 or 0"),
    _BOXES: ("image number", "x", "y", "width", "height"),
}


class CUB(Reader):
    """The folder ``CUB_200_2011``, one that holds it, or a zip of it."""

    name = "cub"
    what = "CUB-200-2011"
    marker = "images.txt"
    inner = "CUB_200_2011"

    @classmethod
    def open(cls, root: Path, faults: Faults | None = None) -> AbstractContextManager[Reader]:
        if os.path.isfile(root) and root.name.endswith((".tgz", ".tar.gz", ".tar")):
            raise InputError(
                f"{root}: an archive, expected the folder CUB_200_2011; unpack it with "
                "cstn data download cub --root and the folder it lies in"
            )
        return super().open(root, faults)

    def identity(self, split: str) -> object:
        folders = [f"images/{name}" for name in self.source.folders("images")]
        photos = [(folder, sorted(self.source.files(folder).items())) for folder in folders]
        return [self.source.checksums(_COLUMNS), photos]

    def photos(self, split: str) -> PhotoList:
        source = self.source
        classes = self._lines("classes.txt")
        label_of = {number: label for label, number in enumerate(classes)}
        images = self._lines("images.txt")
        annotations = {file: self._lines(file, images) for file in (_LABELS, _PARTS, _BOXES)}
        there = {
            f"{folder}/{name}"
            for folder in source.folders("images")
            for name in source.photos(f"images/{folder}")
        }
        found = []
        for number, image in images.items():
            path = image.values[1]
            absent = [file for file, lines in annotations.items() if number not in lines]
            if not is_safe(path):
                message = f"{quoted(path)}, expected a path below images"
                image.fault("unreadable line", message)
            elif path not in there:
                image.fault("missing image", source.why_missing(f"images/{path}"))
            elif absent:
                message = f"no line of image {number}, expected one for each image of images.txt"
                source.fault("not annotated", message, absent[0])
            else:
                known = _class_matches(path, annotations[_LABELS][number], classes)
                part = _part(annotations[_PARTS][number])
                line = annotations[_BOXES][number]
                box = line.box(line.values[1:])
                if known and box and part and (part == "test") == (split == "test"):
                    x, y, width, height = box
                    label = label_of[annotations[_LABELS][number].values[1]]
                    edges = x, y, x + width, y + height
                    found.append(Photo(f"images/{path}", label, [(edges, line.where)]))

        present = {photo.label for photo in found}
        for number, line in classes.items():
            if label_of[number] not in present:
                part = "test" if split == "test" else "training"
                line.fault("class without image", f"no {part} image of class {line.values[1]}")
        if split != "test":
            found = self.held_back(split, found)
        names = [line.values[1] for line in classes.values()]
        return self.photo_list(split, found, [name.partition(".")[2] or name for name in names])

    def _lines(self, file: str, images: Mapping[str, Line] | None = None) -> dict[str, Line]:
        """The lines of a list by their number; of `images` alone, where they are given."""
        kept = {}
        for number, line in self.table(file, _COLUMNS[file], " ").keyed().items():
            if not (number.isascii() and number.isdigit()):
                message = f"{quoted(number)}, expected the {_COLUMNS[file][0]}"
                line.fault("unreadable line", message)
            elif images is not None and number not in images:
                line.fault("unknown image", f"image {number}, expected one of images.txt")
            else:
                kept[number] = line
        return kept


def _class_matches(path: str, line: Line, classes: Mapping[str, Line]) -> bool:
    """Whether a label is a class, and the one whose folder the image is in; else a fault."""
    number = line.values[1]
    name = classes[number].values[1] if number in classes else None
    if name is None:
        line.fault("unknown label", f"class {quoted(number)}, expected one of classes.txt")
    elif path.rpartition("/")[0] != name:
        line.fault("unknown label", f"class {number} is {name}, but the image is {path}")
    else:
        return True
    return False


def _part(line: Line) -> str | None:
    """``"train"`` or ``"test"``; a fault and None for another flag."""
    flag = line.values[1]
    parts = {"1": "train", "0": "test"}
    if flag not in parts:
        line.fault("unreadable line", f"{quoted(flag)}, expected 1 for training or 0 for test")
    return parts.get(flag)
