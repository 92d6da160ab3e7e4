"""Splits and boxes of the published evaluation protocol of weakly supervised localization.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right" (2020), published
lists for CUB and ILSVRC, each with ``train``, ``val`` (images of its own, CUBV2 and ImageNetV2,
whose boxes may be used to choose hyper-parameters) and ``test``:

    metadata/CUB/SPLIT/image_ids.txt       path below dataset/CUB
    metadata/CUB/SPLIT/class_labels.txt    path, label from 0
    metadata/CUB/SPLIT/image_sizes.txt     path, width, height
    metadata/CUB/SPLIT/localization.txt    path, x0, y0, x1, y1; pixels, one line per box
    dataset/CUB/...                        the images

and likewise for ILSVRC.

The lists tell everything about the boxes without a single image: `read_wsol_metadata`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np

from cstn_lib.data.photos.decoding import in_parallel
from cstn_lib.data.photos.faults import Faults, quoted
from cstn_lib.data.photos.photo_list import (
    PhotoList,
    PixelBoxes,
    measured_boxes,
    unit_photo_list,
)
from cstn_lib.data.photos.reading import SPLITS, Published, Reader
from cstn_lib.data.photos.sources import FolderSource, is_safe
from cstn_lib.data.photos.text_table import TextTable, box_numbers
from cstn_lib.support.errors import InputError, unknown_name

WSOL_DATASETS = {"CUB": 200, "ILSVRC": 1000}
"""Folders of the layout, and how many classes each data set has."""

_COLUMNS = {
    "image_ids": ("path",),
    "class_labels": ("path", "label"),
    "image_sizes": ("path", "width", "height"),
    "localization": ("path", "x0", "y0", "x1", "y1"),
}


class _WSOL(Reader):
    """``metadata`` and ``dataset`` side by side, as the published code has them."""

    dataset: ClassVar[str]
    source: FolderSource

    def __init__(self, source: FolderSource) -> None:
        super().__init__(source)
        places = (f"metadata/{self.dataset}", self.dataset)
        folders = [folder for folder in places if (source.top / folder).is_dir()]
        if not folders:
            raise InputError(
                f"{source.top}: no WSOL metadata of {self.dataset}, expected {' or '.join(places)} "
                "in it"
            )
        self.lists = folders[0]
        self.images = f"dataset/{self.dataset}"
        self.has_photos = (source.top / self.images).is_dir()
        if not self.has_photos:
            there = source.folders(self.lists)
            self.splits = [split for split in SPLITS if split in there]

    @classmethod
    @contextmanager
    def open(cls, root: Path, faults: Faults | None = None) -> Iterator[_WSOL]:
        if not os.path.isdir(root):
            raise InputError(f"{root}: missing or no folder, expected metadata and dataset in it")
        yield cls(FolderSource(root, f"the WSOL metadata of {cls.dataset}", faults))

    def identity(self, split: str) -> object:
        files = [self._list(split, name).file for name in _COLUMNS]
        return [self.source.checksums(files), self.source.dates(self.images, depth=2)]

    def photos(self, split: str) -> PhotoList:
        if not self.has_photos:
            where = self.source.where(self.images)
            raise InputError(f"{where}: missing, expected the images of {self.dataset} there")
        row_of, labels, sizes = self._annotated(split)
        files = [f"{self.images}/{image}" for image in row_of]
        known = self.source, files, labels, self._class_names(row_of, labels)
        if split != "train":
            given = self._boxes(split, row_of)
            title = f"sizes of {self.name} {split}"
            return unit_photo_list(*known, given, title=title, sizes=sizes)
        # of train, learning sees the labels alone: no reason to look into a million files
        there = np.array(list(in_parallel(self.source.has, files)), dtype=bool)
        for row in np.flatnonzero(~there):
            self.source.fault("missing image", "missing", files[row])
        photos = PhotoList.without_boxes(*known)
        return photos if there.all() else photos.take(np.flatnonzero(there))

    def listed(self, split: str) -> PhotoList:
        return self.photos(split) if self.has_photos else self.metadata(split)

    def metadata(self, split: str) -> PhotoList:
        """What the lists say, without a single image."""
        row_of, labels, sizes = self._annotated(split)
        given = self._boxes(split, row_of)
        images = list(row_of)
        for row in np.unique(given.owners[~sizes[given.owners].all(axis=1)]):
            self._not_annotated(split, "image_sizes", images[row], "each image with a box")
        owners, boxes, empty = measured_boxes(self.source, given, sizes)
        offsets = np.cumsum([0, *np.bincount(owners[~empty], minlength=len(images))])
        boxes = boxes[~empty].astype(np.float32)
        names = self._class_names(images, labels)
        return PhotoList(self.source, images, labels, boxes, offsets, names, sizes=sizes)

    def _annotated(self, split: str) -> tuple[dict[str, int], np.ndarray, np.ndarray]:
        """The row of each image, (N,) labels, and (N, 2) sizes, 0 where not known."""
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        table = self._list(split, "image_ids")
        numbers, (ids,) = table.columns()
        label_of = self._labels(split)
        row_of: dict[str, int] = {}
        labels: list[int] = []
        for image, row in table.first_rows(numbers, ids).items():
            label = label_of.get(image)
            if not is_safe(image):
                message = f"{quoted(image)}, expected a path below dataset"
                table.fault("unreadable line", message, numbers[row])
            elif label is None:
                self._not_annotated(split, "class_labels", image)
            elif label >= 0:
                row_of[image] = len(labels)
                labels.append(label)
        return row_of, np.array(labels, dtype=np.int64), self._sizes(split, row_of)

    def _not_annotated(
        self, split: str, name: str, image: str, needed: str = "each image of image_ids.txt"
    ) -> None:
        message = f"no line of image {quoted(image)}, expected one for {needed}"
        self._list(split, name).fault("not annotated", message)

    def _labels(self, split: str) -> dict[str, int]:
        """The label of each image; -1 where it is out of range."""
        table = self._list(split, "class_labels")
        numbers, (images, texts) = table.columns()
        classes = WSOL_DATASETS[self.dataset]
        known = {str(label): label for label in range(classes)}
        labels = {}
        for image, row in table.first_rows(numbers, images).items():
            labels[image] = known.get(texts[row], -1)
            if labels[image] < 0:
                message = f"label {quoted(texts[row])}, expected 0 to {classes - 1}"
                table.fault("unknown label", message, numbers[row])
        return labels

    def _sizes(self, split: str, row_of: dict[str, int]) -> np.ndarray:
        """(N, 2) width and height; 0 where the lists do not say."""
        sizes = np.zeros((len(row_of), 2), dtype=np.int64)
        table = self._list(split, "image_sizes")
        if not self.source.has(table.file):
            return sizes
        numbers, columns = table.columns()
        for row, (image, *size) in enumerate(zip(*columns, strict=True)):
            if not all(text.isdecimal() and len(text) < 10 and int(text) for text in size):
                message = f"{quoted(','.join(size))}, expected width and height"
                table.fault("unreadable line", message, numbers[row])
            elif image in row_of:
                sizes[row_of[image]] = int(size[0]), int(size[1])
        return sizes

    def _boxes(self, split: str, row_of: dict[str, int]) -> PixelBoxes:
        """The boxes in pixels; none where the split, as train may, has no localization."""
        table = self._list(split, "localization")
        if split == "train" and not self.source.has(table.file):
            return PixelBoxes(np.empty(0, np.int64), np.empty((0, 4)), str)
        lines, (images, *values) = table.columns()
        owners = np.array([row_of.get(image, -1) for image in images], dtype=np.int64)
        for row in np.flatnonzero(owners < 0):
            message = f"{quoted(images[row])}, expected one of image_ids.txt"
            table.fault("unknown image", message, lines[row])
        if split != "train":
            for image in sorted(row_of.keys() - set(images)):
                self._not_annotated(split, "localization", image)
        try:
            pixels = np.array(values, dtype=np.float64).reshape(4, -1).T
        except ValueError:
            pixels = np.full((len(lines), 4), np.nan)
        for row in np.flatnonzero(~np.isfinite(pixels).all(axis=1)):
            texts = [column[row] for column in values]
            box = box_numbers(self.source, texts, table.file, lines[row])
            pixels[row] = box or np.nan
        kept = np.flatnonzero((owners >= 0) & np.isfinite(pixels).all(axis=1))

        def where(box: int) -> str:
            return self.source.where(table.file, lines[kept[box]])

        return PixelBoxes(owners[kept], pixels[kept], where)

    def _list(self, split: str, name: str) -> TextTable:
        return self.table(f"{self.lists}/{split}/{name}.txt", _COLUMNS[name], ",")

    def _class_names(self, images: Iterable[str], labels: np.ndarray) -> list[str]:
        """The folder of a class's images where it is one for all of them, else its number."""
        folders: dict[int, set[str]] = {}
        for image, label in zip(images, labels.tolist(), strict=True):
            folders.setdefault(label, set()).add(Path(image).parent.name)
        names = {label: found.pop() for label, found in folders.items() if len(found) == 1}
        if len(set(names.values())) < len(names):
            names = {}
        return [names.get(label, str(label)) for label in range(WSOL_DATASETS[self.dataset])]


class WSOLCub(_WSOL):
    """CUB-200-2011 with CUBV2 as its val split."""

    name = "wsol-cub"
    dataset = "CUB"
    published = Published(200, {"train": 5994, "val": 1000, "test": 5794})


class WSOLIlsvrc(_WSOL):
    """ILSVRC 2012 with ImageNetV2 as its val split."""

    name = "wsol-ilsvrc"
    dataset = "ILSVRC"
    published = Published(1000, {"train": 1_281_167, "val": 10000, "test": 50000})


def read_wsol_metadata(root: Path | str, dataset: str, split: str) -> PhotoList:
    """The boxes, sizes and labels of a split; no image is needed.

    Its files are relative to the folder of the images; a size is 0 where the lists do not say.

    Args:
        root: the folder with ``metadata``, or with the data set's folder itself.
        dataset: of `WSOL_DATASETS`.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Raises:
        InputError: the lists are not there, or not as expected.
    """
    readers = {reader.dataset: reader for reader in (WSOLCub, WSOLIlsvrc)}
    if dataset not in readers:
        raise unknown_name("WSOL data set", dataset, readers)
    with readers[dataset].open(Path(root).expanduser()) as reader:
        return reader.metadata(split)
