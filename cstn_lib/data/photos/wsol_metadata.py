"""Splits and boxes of the published evaluation protocol of weakly supervised localization.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right" (2020), published
lists for CUB and ILSVRC, each with ``train``, ``val`` (images of its own, CUBV2 and ImageNetV2,
whose boxes may be used to choose hyper-parameters) and ``test``:

    metadata/CUB/SPLIT/image_ids.txt       path below dataset/CUB
    metadata/CUB/SPLIT/class_labels.txt    path, label from 0
    metadata/CUB/SPLIT/image_sizes.txt     path, width, height
    metadata/CUB/SPLIT/localization.txt    path, x0, y0, x1, y1; pixels, a line a box
    dataset/CUB/...                        the images

and likewise for ILSVRC.

The lists tell everything about the boxes without a single image: `read_wsol_metadata`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cstn_lib.data.photos.decoding import in_parallel
from cstn_lib.data.photos.faults import Faults, quoted
from cstn_lib.data.photos.file_names import is_safe
from cstn_lib.data.photos.reading import (
    SPLITS,
    PhotoList,
    PixelBoxes,
    Published,
    Reader,
    measured_boxes,
    unit_photo_list,
)
from cstn_lib.data.photos.sources import FolderSource
from cstn_lib.data.photos.text_table import TextTable, box_numbers
from cstn_lib.support.errors import InputError, unknown_name

__all__ = [
    "WSOL_DATASETS",
    "WSOLCub",
    "WSOLIlsvrc",
    "WSOLMetadata",
    "read_wsol_metadata",
]

WSOL_DATASETS = {"CUB": 200, "ILSVRC": 1000}
"""Folders of the layout, and how many classes each data set has."""

_COLUMNS = {
    "image_ids": ("path",),
    "class_labels": ("path", "label"),
    "image_sizes": ("path", "width", "height"),
    "localization": ("path", "x0", "y0", "x1", "y1"),
}


@dataclass(frozen=True)
class WSOLMetadata:
    """What the lists say about a split.

    Attributes:
        dataset: of `WSOL_DATASETS`.
        split: ``"train"``, ``"val"`` or ``"test"``.
        image_ids: N paths below the folder of the images.
        labels: (N,) int64.
        sizes: (N, 2) int64, width and height in pixels; 0 where the lists do not say.
        boxes: (M, 4) float32 ``xyxy`` in [0, 1], in the order of the images.
        box_offsets: (N + 1,) int64; the boxes of image i are rows box_offsets[i]:box_offsets[i +
            1], as in `cstn_lib.evaluation.metrics.BoxList`.
    """

    dataset: str
    split: str
    image_ids: tuple[str, ...]
    labels: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    box_offsets: np.ndarray


def read_wsol_metadata(
    root: Path | str, dataset: str, split: str, faults: Faults | None = None
) -> WSOLMetadata:
    """The boxes, sizes and labels of a split; no image is needed.

    Args:
        root: the folder with ``metadata``, or with the data set's folder itself.
        dataset: of `WSOL_DATASETS`.
        split: ``"train"``, ``"val"`` or ``"test"``.
        faults: what to do with them; by default the first one is raised.

    Raises:
        InputError: the lists are not there, or not as expected.
    """
    lists = _Lists(Path(root).expanduser(), dataset)
    return lists.metadata(split, faults or Faults())


class _Lists:
    """The text files of one data set."""

    def __init__(self, root: Path, dataset: str) -> None:
        if dataset not in WSOL_DATASETS:
            raise unknown_name("WSOL data set", dataset, WSOL_DATASETS)
        folders = [
            folder for folder in (f"metadata/{dataset}", dataset) if (root / folder).is_dir()
        ]
        if not folders:
            raise InputError(
                f"{root}: no WSOL metadata of {dataset}, expected metadata/{dataset} or {dataset} "
                "in it"
            )
        self.dataset = dataset
        self.source = FolderSource(root)
        self.folder = folders[0]

    def table(self, split: str, name: str) -> TextTable:
        return TextTable(
            self.source,
            f"{self.folder}/{split}/{name}.txt",
            _COLUMNS[name],
            ",",
            f"the WSOL metadata of {self.dataset}",
        )

    def metadata(self, split: str, faults: Faults) -> WSOLMetadata:
        row_of, labels, sizes = self.images(split, faults)
        given = self.boxes(split, row_of, faults)
        unknown = np.unique(given.owners[~sizes[given.owners].all(axis=1)])
        images = tuple(row_of)
        for row in unknown:
            faults.fault(
                "not annotated",
                f"{self.table(split, 'image_sizes').where()}: no line of image "
                f"{quoted(images[row])}, expected one for each image with a box",
            )
        owners, boxes, empty = measured_boxes(given, sizes, np.ones(len(images), int), faults)
        counts = np.bincount(owners[~empty], minlength=len(images))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        boxes = boxes[~empty].astype(np.float32)
        return WSOLMetadata(self.dataset, split, images, labels, sizes, boxes, offsets)

    def images(self, split: str, faults: Faults) -> tuple[dict[str, int], np.ndarray, np.ndarray]:
        """The row of each image, (N,) labels, and (N, 2) sizes, 0 where not known."""
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        table = self.table(split, "image_ids")
        numbers, (ids,) = table.columns(faults)
        label_of = self._labels(split, faults)
        row_of: dict[str, int] = {}
        labels: list[int] = []
        for image, row in table.first_rows(numbers, ids, faults).items():
            label = label_of.get(image)
            if not is_safe(image):
                faults.fault(
                    "unreadable line",
                    f"{table.where(numbers[row])}: {quoted(image)}, expected a path below dataset",
                )
            elif label is None:
                faults.fault(
                    "not annotated",
                    f"{self.table(split, 'class_labels').where()}: no line of image "
                    f"{quoted(image)}, expected one for each image of image_ids.txt",
                )
            elif label >= 0:
                row_of[image] = len(labels)
                labels.append(label)
        return row_of, np.array(labels, dtype=np.int64), self._sizes(split, row_of, faults)

    def _labels(self, split: str, faults: Faults) -> dict[str, int]:
        """The label of each image; -1 where it is out of range."""
        table = self.table(split, "class_labels")
        numbers, (images, texts) = table.columns(faults)
        classes = WSOL_DATASETS[self.dataset]
        known = {str(label): label for label in range(classes)}
        labels = {}
        for image, row in table.first_rows(numbers, images, faults).items():
            labels[image] = known.get(texts[row], -1)
            if labels[image] < 0:
                faults.fault(
                    "unknown label",
                    f"{table.where(numbers[row])}: label {quoted(texts[row])}, "
                    f"expected 0 to {classes - 1}",
                )
        return labels

    def _sizes(self, split: str, row_of: dict[str, int], faults: Faults) -> np.ndarray:
        """(N, 2) width and height; 0 where the lists do not say."""
        sizes = np.zeros((len(row_of), 2), dtype=np.int64)
        table = self.table(split, "image_sizes")
        if not self.source.has(table.file):
            return sizes
        numbers, columns = table.columns(faults)
        for row, (image, *size) in enumerate(zip(*columns, strict=True)):
            if not all(text.isdecimal() and len(text) < 10 and int(text) for text in size):
                shown = quoted(",".join(size))
                faults.fault(
                    "unreadable line",
                    f"{table.where(numbers[row])}: {shown}, expected width and height",
                )
            elif image in row_of:
                sizes[row_of[image]] = int(size[0]), int(size[1])
        return sizes

    def boxes(self, split: str, row_of: dict[str, int], faults: Faults) -> PixelBoxes:
        """The boxes in pixels; none where the split, as train may, has no localization."""
        lines, images, values = self._localization(split, row_of, faults)
        table = self.table(split, "localization")
        try:
            pixels = np.array(values, dtype=np.float64).reshape(4, -1).T
            good = np.isfinite(pixels).all(axis=1)
        except ValueError:
            good = np.zeros(len(lines), dtype=bool)
        if not good.all():
            found = [
                box_numbers(self.source, table.file, line, texts, faults)
                for line, *texts in zip(lines, *values, strict=True)
            ]
            good = np.array([box is not None for box in found])
            pixels = np.array([box or [0.0] * 4 for box in found])
        owners = np.array([row_of[image] for image in images], dtype=np.int64)
        kept = np.flatnonzero(good)
        return PixelBoxes(owners[kept], pixels[kept], lambda box: table.where(lines[kept[box]]))

    def _localization(
        self, split: str, row_of: dict[str, int], faults: Faults
    ) -> tuple[Sequence[int], list[str], list[list[str]]]:
        """Line numbers, images, and the further columns of the lines of known images."""
        table = self.table(split, "localization")
        if split == "train" and not self.source.has(table.file):
            return [], [], [[] for _ in table.names[1:]]
        numbers, (images, *values) = table.columns(faults)
        strangers = [row for row, image in enumerate(images) if image not in row_of]
        for row in strangers:
            faults.fault(
                "unknown image",
                f"{table.where(numbers[row])}: {quoted(images[row])}, expected one of "
                "image_ids.txt",
            )
        if split != "train":
            for image in sorted(row_of.keys() - set(images)):
                faults.fault(
                    "not annotated",
                    f"{table.where()}: no line of image {quoted(image)}, expected one for each "
                    "image of image_ids.txt",
                )
        if strangers:
            kept = sorted(set(range(len(images))) - set(strangers))
            numbers, images, *values = (
                [column[row] for row in kept] for column in (numbers, images, *values)
            )
        return numbers, images, values


# With the images


class _WSOL(Reader):
    """``metadata`` and ``dataset`` side by side, as the published code has them."""

    dataset: str

    def __init__(self, root: Path) -> None:
        self.lists = _Lists(root, self.dataset)
        self.source = self.lists.source
        self.has_photos = (root / "dataset" / self.dataset).is_dir()
        if not self.has_photos:
            there = self.source.folders(self.lists.folder)
            self.splits = [split for split in SPLITS if split in there]

    @classmethod
    @contextmanager
    def open(cls, root: Path) -> Iterator[_WSOL]:
        if not os.path.isdir(root):
            raise InputError(f"{root}: missing or no folder, expected metadata and dataset in it")
        yield cls(root)

    def identity(self, split: str) -> object:
        files = [self.lists.table(split, name).file for name in _COLUMNS]
        lists = [(file, self.source.checksum(file)) for file in files if self.source.has(file)]
        return [lists, self.source.dates(f"dataset/{self.dataset}", depth=2)]

    def photos(self, split: str, faults: Faults) -> PhotoList:
        if not self.has_photos:
            raise InputError(
                f"{self.source.top / 'dataset' / self.dataset}: missing, expected the images of "
                f"{self.dataset} there"
            )
        row_of, labels, sizes = self.lists.images(split, faults)
        files = [f"dataset/{self.dataset}/{image}" for image in row_of]
        names = self._class_names(list(row_of), labels)
        if split != "train":
            given = self.lists.boxes(split, row_of, faults)
            return unit_photo_list(
                self.source,
                files,
                labels,
                names,
                given,
                faults,
                title=f"sizes of {self.name} {split}",
                sizes=sizes,
            )
        # of train, learning sees the labels alone: no reason to look into a million files
        none = np.empty((0, 4)), np.zeros(len(files) + 1, np.int64)
        photos = PhotoList(self.source, files, labels, *none, names)
        there = np.array(list(in_parallel(self.source.has, files)), dtype=bool)
        for row in np.flatnonzero(~there):
            faults.fault("missing image", f"{self.source.where(files[row])}: missing")
        return photos if there.all() else photos.take(np.flatnonzero(there))

    def listed(self, split: str, faults: Faults) -> PhotoList:
        if self.has_photos:
            return self.photos(split, faults)
        found = self.lists.metadata(split, faults)
        names = self._class_names(list(found.image_ids), found.labels)
        return PhotoList(
            self.source, found.image_ids, found.labels, found.boxes, found.box_offsets, names
        )

    def _class_names(self, images: list[str], labels: np.ndarray) -> list[str]:
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
