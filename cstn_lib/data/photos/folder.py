"""One's own photos: class folders, and a table of boxes for the splits that are evaluated.

    train/CLASS/*                  photos to learn from: at least two classes
    val/CLASS/*  test/CLASS/*      photos of the same classes, with boxes
    boxes.csv                      image,x0,y0,x1,y1

The table starts with that header. ``image`` is the path below the root (``test/cat/1.jpg``); x0 and
y0 are where the box begins and x1 and y1 where it ends, in pixels of the image as it is shown: the
box around all of an image of 640 x 480 is 0,0,640,480. An image may have several lines. Labels
follow the sorted names of the folders of ``train``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cstn_lib.data.photos.faults import Faults, quoted
from cstn_lib.data.photos.file_names import inner_path
from cstn_lib.data.photos.reading import PhotoList, PixelBoxes, Reader, unit_photo_list
from cstn_lib.data.photos.sources import Source, open_source
from cstn_lib.data.photos.text_table import TextTable, box_numbers
from cstn_lib.support.errors import InputError

__all__ = ["Folder"]

_TABLE = "boxes.csv"
_COLUMNS = ("image", "x0", "y0", "x1", "y1")


class Folder(Reader):
    """The folder with ``train``, or a zip of it."""

    name = "folder"

    def __init__(self, source: Source) -> None:
        self.source = source

    @classmethod
    @contextmanager
    def open(cls, root: Path) -> Iterator[Folder]:
        what = "a folder of photos"
        with open_source(root, what=what, marker="train/", inner=root.stem) as source:
            yield cls(source)

    def identity(self, split: str) -> object:
        classes = [f"{split}/{name}" for name in self.source.folders(split)]
        return [
            self.source.checksum(_TABLE) if self.source.has(_TABLE) else None,
            self.source.folders("train"),
            [(name, sorted(self.source.files(name).items())) for name in classes],
        ]

    def photos(self, split: str, faults: Faults) -> PhotoList:
        classes = self.source.folders("train")
        if len(classes) < 2:
            raise InputError(
                f"{self.source.where('train')}: {len(classes)} folders, expected one for each of "
                "at least two classes"
            )
        label_of = {name: label for label, name in enumerate(classes)}
        if not self.source.folders(split):
            raise InputError(
                f"{self.source.where(split)}: no class in it, expected {split}/CLASS with photos"
            )
        for name in self.source.names(split):
            faults.oddity(
                "file outside the classes, passed over",
                f"{self.source.where(f'{split}/{name}')}: expected {split}/CLASS with photos",
            )
        files, labels = [], []
        for name in self.source.folders(split):
            place = f"{split}/{name}"
            if name not in label_of:
                faults.fault(
                    "unknown label",
                    f"{self.source.where(place)}: class {quoted(name)}, expected one of train",
                )
                continue
            photos = self.source.photos(place, faults)
            if not photos:
                faults.fault("class without image", f"{self.source.where(place)}: no photo in it")
            files += [f"{place}/{photo}" for photo in photos]
            labels += [label_of[name]] * len(photos)
        boxes = self._boxes(split, files, faults)
        if split != "train":
            for row in sorted(set(range(len(files))) - set(boxes.owners.tolist())):
                faults.fault(
                    "no box",
                    f"{self.source.where(files[row])}: no box, expected a line of it in {_TABLE}",
                )
        found = np.array(labels, dtype=np.int64)
        title = f"sizes of {self.name} {split}"
        return unit_photo_list(self.source, files, found, classes, boxes, faults, title=title)

    def _boxes(self, split: str, files: list[str], faults: Faults) -> PixelBoxes:
        row_of = {file: row for row, file in enumerate(files)}
        table = TextTable(self.source, _TABLE, _COLUMNS, ",", "a folder of photos")
        needed = split != "train" or self.source.has(_TABLE)
        owners, pixels, numbers = [], [], []
        for number, values in table.below_header(faults) if needed else ():
            here = table.where(number)
            image = inner_path(values[0].strip())
            if not image.startswith(f"{split}/"):
                if image.partition("/")[0] not in ("train", "val", "test"):
                    faults.fault(
                        "unknown image",
                        f"{here}: {quoted(image)}, expected a path from train, val or test",
                    )
                continue
            box = box_numbers(self.source, _TABLE, number, values[1:], faults)
            if image not in row_of:
                faults.fault("missing image", f"{here}: {self.source.why_missing(image)}")
            elif box is not None:
                owners.append(row_of[image])
                pixels.append(box)
                numbers.append(number)
        return PixelBoxes(
            np.array(owners, dtype=np.int64),
            np.array(pixels, dtype=np.float64).reshape(-1, 4),
            lambda box: table.where(numbers[box]),
            as_shown=True,
        )
