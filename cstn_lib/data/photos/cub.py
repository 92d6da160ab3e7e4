"""CUB-200-2011: birds of 200 species, one box an image, as distributed.

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
choose hyper-parameters; the rest is ``train``, of which learning sees the labels alone. The
published protocol with images of its own for val is ``wsol-cub``
(`cstn_lib.data.photos.wsol_metadata`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cstn_lib.data.photos.faults import Faults, quoted
from cstn_lib.data.photos.file_names import is_safe
from cstn_lib.data.photos.order import train_or_val
from cstn_lib.data.photos.reading import PhotoList, PixelBoxes, Published, Reader, unit_photo_list
from cstn_lib.data.photos.sources import Source, open_source
from cstn_lib.data.photos.text_table import TextTable, box_numbers
from cstn_lib.support.errors import InputError

__all__ = ["CUB"]

_COLUMNS = {
    "images.txt": ("image number", "path"),
    "classes.txt": ("class number", "name"),
    "image_class_labels.txt": ("image number", "class number"),
    "train_test_split.txt": ("image number", "1 or 0"),
    "bounding_boxes.txt": ("image number", "x", "y", "width", "height"),
}


class CUB(Reader):
    """The folder ``CUB_200_2011``, one that holds it, or a zip of it."""

    name = "cub"
    published = Published(200, {"train+val": 5994, "test": 5794})

    def __init__(self, source: Source) -> None:
        self.source = source

    @classmethod
    @contextmanager
    def open(cls, root: Path) -> Iterator[CUB]:
        if os.path.isfile(root) and root.name.endswith((".tgz", ".tar.gz", ".tar")):
            raise InputError(
                f"{root}: an archive, expected the folder CUB_200_2011; unpack it with "
                "cstn data download cub --root and the folder it lies in"
            )
        with open_source(
            root, what="CUB-200-2011", marker="images.txt", inner="CUB_200_2011"
        ) as source:
            yield cls(source)

    def identity(self, split: str) -> object:
        lists = [(file, self.source.checksum(file)) for file in _COLUMNS if self.source.has(file)]
        folders = [f"images/{name}" for name in self.source.folders("images")]
        return [lists, [(folder, sorted(self.source.files(folder).items())) for folder in folders]]

    def photos(self, split: str, faults: Faults) -> PhotoList:
        source = self.source
        classes = self._lines("classes.txt", faults)
        numbers = {number: label for label, number in enumerate(classes)}
        images = self._lines("images.txt", faults)
        class_of = self._lines("image_class_labels.txt", faults, images)
        part_of = self._lines("train_test_split.txt", faults, images)
        box_of = self._lines("bounding_boxes.txt", faults, images)
        there = {
            f"{folder}/{name}"
            for folder in source.folders("images")
            for name in source.photos(f"images/{folder}", faults)
        }

        files, labels, pixels, places = [], [], [], []
        for image, (line, (path,)) in images.items():
            here = source.where("images.txt", line)
            if not is_safe(path):
                faults.fault(
                    "unreadable line", f"{here}: {quoted(path)}, expected a path below images"
                )
                continue
            if path not in there:
                faults.fault("missing image", f"{here}: {source.why_missing(f'images/{path}')}")
                continue
            lists = {
                "image_class_labels.txt": class_of,
                "train_test_split.txt": part_of,
                "bounding_boxes.txt": box_of,
            }
            absent = [file for file, found in lists.items() if image not in found]
            if absent:
                faults.fault(
                    "not annotated",
                    f"{source.where(absent[0])}: no line of image {image}, expected one for each "
                    "image of images.txt",
                )
                continue
            label = self._label(path, class_of[image], classes, numbers, faults)
            part = self._part(part_of[image], faults)
            line, values = box_of[image]
            box = box_numbers(source, "bounding_boxes.txt", line, values, faults)
            if label is None or part is None or box is None:
                continue
            if (part == "test") == (split == "test"):
                files.append(f"images/{path}")
                labels.append(label)
                pixels.append((box[0], box[1], box[0] + box[2], box[1] + box[3]))
                places.append(line)

        found = np.array(labels, dtype=np.int64)
        for number, label in numbers.items():
            if label not in set(labels):
                line, (name,) = classes[number]
                part = "test" if split == "test" else "training"
                faults.fault(
                    "class without image",
                    f"{source.where('classes.txt', line)}: no {part} image of class {name}",
                )
        rows = np.arange(len(files))
        if split != "test":
            rows = train_or_val(split, files, found, lambda row: source.where(files[row]))
        boxes = PixelBoxes(
            np.arange(len(rows)),
            np.array(pixels, dtype=np.float64).reshape(-1, 4)[rows],
            lambda box: source.where("bounding_boxes.txt", places[rows[box]]),
        )
        return unit_photo_list(
            source,
            [files[row] for row in rows],
            found[rows],
            [name.partition(".")[2] or name for _, (name,) in classes.values()],
            boxes,
            faults,
            title=f"sizes of {self.name} {split}",
        )

    def _lines(
        self, file: str, faults: Faults, images: dict[str, tuple[int, list[str]]] | None = None
    ) -> dict[str, tuple[int, list[str]]]:
        """The lines of a list by their number; those of no image, where `images` are given, not."""
        table = TextTable(self.source, file, _COLUMNS[file], " ", "CUB-200-2011")
        kept = {}
        for number, (line, values) in table.keyed(faults).items():
            here = table.where(line)
            if not (number.isascii() and number.isdigit()):
                faults.fault(
                    "unreadable line", f"{here}: {quoted(number)}, expected the {_COLUMNS[file][0]}"
                )
            elif images is not None and number not in images:
                faults.fault("unknown image", f"{here}: image {number}, expected one of images.txt")
            else:
                kept[number] = line, values
        return kept

    def _label(
        self,
        path: str,
        given: tuple[int, list[str]],
        classes: dict[str, tuple[int, list[str]]],
        numbers: dict[str, int],
        faults: Faults,
    ) -> int | None:
        line, (number,) = given
        here = self.source.where("image_class_labels.txt", line)
        if number not in numbers:
            faults.fault(
                "unknown label", f"{here}: class {quoted(number)}, expected one of classes.txt"
            )
            return None
        name = classes[number][1][0]
        if path.rpartition("/")[0] != name:
            faults.fault(
                "unknown label", f"{here}: class {number} is {name}, but the image is {path}"
            )
            return None
        return numbers[number]

    def _part(self, given: tuple[int, list[str]], faults: Faults) -> str | None:
        line, (flag,) = given
        parts = {"1": "train", "0": "test"}
        if flag not in parts:
            here = self.source.where("train_test_split.txt", line)
            faults.fault(
                "unreadable line",
                f"{here}: {quoted(flag)}, expected 1 for training or 0 for test",
            )
        return parts.get(flag)
