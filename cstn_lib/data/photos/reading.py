"""How every data set of photographs is opened: read, ordered, and decoded once or on the fly.

A data set under the user's root is a `Reader`: it lists the photos of a split. `open_photos` turns
the list into an `ImageSet` under ``data/``, in one of two ways:

* decoded once, into a memory map, up to `STORED_AT_MOST` bytes of pixels (CUB-200-2011 at 320²
  takes 3.6 GB, the ILSVRC validation images 15.4 GB);
* above that (the ILSVRC training images would take 387 GB) as a list of files, which are decoded
  whenever a batch is put together.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from cstn_lib.data.images import (
    ImageSet,
    SplitLists,
    open_image_set,
    write_image_set,
    write_photo_index,
)
from cstn_lib.data.photos.decoding import decode_photo, in_parallel
from cstn_lib.data.photos.faults import Faults, quoted
from cstn_lib.data.photos.order import balanced_order, train_or_val
from cstn_lib.data.photos.photo_list import PhotoList, PixelBoxes, unit_photo_list
from cstn_lib.data.photos.sources import FolderSource, Source, open_source
from cstn_lib.data.photos.text_table import TextTable, text_lines
from cstn_lib.support.errors import InputError, unknown_name

SPLITS = ("train", "val", "test")
STORED_AT_MOST = 20_000_000_000
"""Bytes of decoded pixels; a larger split is decoded on the fly, but for photos in a zip."""

_RECIPE = 3  # goes up when the same source would be turned into other arrays


class Photo(NamedTuple):
    """A photo as the annotations describe it.

    Attributes:
        boxes: ``xyxy`` in pixels, as edges, each with the place it was read from, for messages.
        size: width and height in pixels that they were measured in; 0 where not known.
    """

    file: str
    label: int
    boxes: Sequence[tuple[Sequence[float], str]]
    size: tuple[int, int] = (0, 0)


def is_wnid(text: str) -> bool:
    """Whether it is written like a WordNet id: ``n01440764``."""
    return bool(re.fullmatch(r"n[0-9]{8}", text))


class Reader(ABC):
    """A data set under the user's root; one subclass per layout.

    Attributes:
        name: of `cstn_lib.data.DATASETS`.
        what: the data set, for messages.
        marker, inner: what its folder has in it, and the folder's own names (see `open_source`); by
            default the name of the root.
        published: False for data of the user's own, who can mend what is wrong with them.
        source: where the files are.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    marker: ClassVar[str]
    inner: ClassVar[Sequence[str]] = ()
    published: ClassVar[bool] = True

    def __init__(self, source: Source) -> None:
        self.source = source

    @classmethod
    @contextmanager
    def open(cls, root: Path, faults: Faults | None = None) -> Iterator[Reader]:
        """The data set under `root`.

        Args:
            faults: where they are reported; by default the first one is raised.

        Raises:
            InputError: it is not there.
        """
        names = {"what": cls.what, "marker": cls.marker, "inner": cls.inner or (root.stem,)}
        with open_source(root, **names, faults=faults) as source:
            yield cls(source)

    @abstractmethod
    def identity(self, split: str) -> object:
        """Names and numbers, for JSON, that change with the split; reads no photo."""

    def lasting_name(self, file: str) -> str:
        """What the order of the photos follows from: the same in every layout of the data set."""
        return file

    @abstractmethod
    def photos(self, split: str) -> PhotoList:
        """The photos of a split, in any order; what is wrong with them goes to the faults.

        Raises:
            InputError: a part of the layout is missing.
        """

    # For subclasses

    def table(self, file: str, names: Sequence[str], separator: str) -> TextTable:
        return TextTable(self.source, file, names, separator)

    def class_photos(self, folders: Mapping[str, int]) -> tuple[list[str], np.ndarray]:
        """The photos in folders of one class each, and their labels; an empty one is a fault."""
        files, labels = [], []
        for folder, label in folders.items():
            names = self.source.photos(folder)
            if not names:
                self.source.fault("class without image", "no image in it", folder)
            files += [f"{folder}/{name}" for name in names]
            labels += [label] * len(names)
        return files, np.array(labels, dtype=np.int64)

    def class_names(self, file: str, separator: str, expected: str) -> dict[str, str]:
        """The first name of each WNID in a file, if it is there, of lines WNID, names."""
        found = {}
        for line in text_lines(self.source, file) if self.source.has(file) else ():
            wnid, _, names = line.values[0].partition(separator)
            if is_wnid(wnid) and names:
                found[wnid] = names.partition(",")[0].strip()
            else:
                line.fault("unreadable line", f"{quoted(line.values[0])}, expected {expected}")
        return found

    def held_back(self, split: str, photos: Sequence[Photo]) -> list[Photo]:
        """Those that are ``"train"`` or ``"val"``: see `train_or_val`."""
        files = [photo.file for photo in photos]
        labels = np.array([photo.label for photo in photos], dtype=np.int64)
        rows = train_or_val(split, files, labels, lambda row: self.source.where(files[row]))
        return [photos[row] for row in rows]

    def photo_list(
        self,
        split: str,
        photos: Sequence[Photo],
        class_names: Sequence[str],
        as_shown: bool = False,
        resized: bool = False,
    ) -> PhotoList:
        """Those photos, with their boxes as fractions.

        `as_shown` of `PixelBoxes`, `resized` of `unit_photo_list`.
        """
        boxes = [box for photo in photos for box in photo.boxes]
        owners = [row for row, photo in enumerate(photos) for _ in photo.boxes]
        pixels = np.array([pixels for pixels, _ in boxes], dtype=np.float64).reshape(-1, 4)
        return unit_photo_list(
            self.source,
            [photo.file for photo in photos],
            np.array([photo.label for photo in photos], dtype=np.int64),
            class_names,
            PixelBoxes(
                np.array(owners, dtype=np.int64), pixels, lambda box: boxes[box][1], as_shown
            ),
            title=f"sizes of {self.name} {split}",
            sizes=np.array([photo.size for photo in photos], dtype=np.int64).reshape(-1, 2),
            resized=resized,
        )


def open_photos(
    reader: type[Reader],
    root: Path,
    split: str,
    *,
    image_size: int,
    data_dir: Path,
    limit: int | None = None,
) -> ImageSet:
    """One split of a data set of photos, decoded (or listed) on first use and cached.

    The cache is ``data_dir/NAME/SPLIT-HASH``; the hash covers the settings and the identity of the
    source. The fingerprint covers what the network gets to see, so that a folder and a zip of it
    have the same: labels, boxes and checksums of the photos; of a split that is decoded on the fly,
    their names instead of checksums.

    The first images are the first of each class (`cstn_lib.data.photos.order.balanced_order`).

    Args:
        root: folder or archive of the data set.
        split: one of `SPLITS`.
        image_size: side in pixels of the square that the photos are resized to.
        data_dir: where the cache goes.
        limit: at most that many images of the split.

    Warns:
        UserWarning: boxes were clipped at the edge of their image; once, with their number.

    Raises:
        InputError: the root, a line of annotation or a photo is not as expected; nothing is
            written then.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    for name, value in (("image_size", image_size), ("limit", limit)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: expected 1 or more")
    with reader.open(root) as opened:
        identity = [_RECIPE, image_size, limit, opened.identity(split)]
        folder = data_dir / reader.name / f"{split}-{_digest(identity)}"
        if folder.is_dir():
            return open_image_set(folder)
        photos = opened.photos(split)
        if not len(photos):
            raise InputError(f"{root}: no photo of split {split!r}, expected some")
        opened.source.faults.warn()
        names = [opened.lasting_name(file) for file in photos.files]
        photos = photos.take(balanced_order(names, photos.labels)[:limit])
        return _write(reader.name, split, photos, image_size, folder)


def _write(name: str, split: str, photos: PhotoList, side: int, folder: Path) -> ImageSet:
    source = photos.source
    large = len(photos) * side * side * 3 > STORED_AT_MOST
    stored = not (large and isinstance(source, FolderSource))
    content = list(photos.files)
    if stored:
        content = list(in_parallel(source.checksum, content, f"reading {name} {split}"))
    seen = [
        _RECIPE,
        side,
        list(photos.class_names),
        photos.labels.tolist(),
        photos.boxes.astype(np.float32).tolist(),
        photos.box_offsets.tolist(),
        content,
    ]
    arrays = photos.labels, photos.boxes, photos.box_offsets
    lists = SplitLists(name, split, *arrays, tuple(photos.class_names), _digest(seen))
    if not stored:
        return write_photo_index(folder, lists, side, source.top, photos.files)

    def one(file: str) -> np.ndarray:
        return decode_photo(source, file, side)

    with closing(in_parallel(one, photos.files, f"decoding {name} {split}")) as decoded:
        return write_image_set(folder, lists, (side, side), decoded)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
