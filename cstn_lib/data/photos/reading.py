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
from typing import ClassVar

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
from cstn_lib.data.photos.order import balanced_order, place_in_class
from cstn_lib.data.photos.photo_list import Photo
from cstn_lib.data.photos.sources import FolderSource, Source, open_source
from cstn_lib.data.photos.text_table import text_lines
from cstn_lib.support.errors import InputError, unknown_name

SPLITS = ("train", "val", "test")
STORED_AT_MOST = 20_000_000_000
"""Bytes of decoded pixels; a larger split is decoded on the fly, but for photos in a zip."""

_HELD_BACK = 0.1  # of each class of a training folder: the val split
_RECIPE = 3  # goes up when the same source would be turned into other arrays


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
    def photos(self, split: str) -> tuple[list[Photo], Sequence[str]]:
        """The photos of a split in any order, boxes in [0, 1], and the name of each class.

        What is wrong with them goes to the faults.

        Raises:
            InputError: a part of the layout is missing.
        """

    # For subclasses

    def class_photos(self, folders: Mapping[str, int]) -> list[Photo]:
        """The photos in folders of one class each, by its label; an empty one is a fault."""
        found = []
        for folder, label in folders.items():
            files = self.source.photos(folder)
            if not files:
                self.source.fault("class without image", "no image in it", folder)
            found += [Photo(file, label) for file in files]
        return found

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

    def names_and_labels(self, photos: Sequence[Photo]) -> tuple[list[str], np.ndarray]:
        """What their order follows from (`cstn_lib.data.photos.order`)."""
        labels = np.array([photo.label for photo in photos], dtype=np.int64)
        return [self.lasting_name(photo.file) for photo in photos], labels

    def train_or_val(
        self, split: str, photos: Sequence[Photo], most: float = np.inf
    ) -> list[Photo]:
        """Those photos of a training folder that belong to ``"train"`` or to ``"val"``.

        A tenth of each class is val, rounded, at least one photo and at most `most`.

        Raises:
            InputError: a class has one photo alone.
        """
        names, labels = self.names_and_labels(photos)
        sizes = np.bincount(labels)[labels]  # of the class of each photo
        for row in np.flatnonzero(sizes == 1):
            raise InputError(
                f"{self.source.where(photos[row].file)}: the only image of its class, expected at "
                "least 2: one is held back as val"
            )
        held = place_in_class(names, labels) < np.clip(np.round(_HELD_BACK * sizes), 1, most)
        return [photos[row] for row in np.flatnonzero(held == (split == "val"))]


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
    with reader.open(root) as opened:
        identity = [_RECIPE, image_size, limit, opened.identity(split)]
        folder = data_dir / reader.name / f"{split}-{_digest(identity)}"
        if folder.is_dir():
            return open_image_set(folder)
        photos, class_names = opened.photos(split)
        if not photos:
            raise InputError(f"{root}: no photo of split {split!r}, expected some")
        opened.source.faults.warn()
        order = balanced_order(*opened.names_and_labels(photos))[:limit]
        photos = [photos[row] for row in order]
        return _write(opened, split, photos, class_names, image_size, folder)


def _write(
    reader: Reader,
    split: str,
    photos: Sequence[Photo],
    class_names: Sequence[str],
    side: int,
    folder: Path,
) -> ImageSet:
    source, title = reader.source, f"{reader.name} {split}"
    large = len(photos) * side * side * 3 > STORED_AT_MOST
    stored = not (large and isinstance(source, FolderSource))
    files = content = [photo.file for photo in photos]
    if stored:
        content = list(in_parallel(source.checksum, files, f"reading {title}"))
    _, labels = reader.names_and_labels(photos)
    boxes = np.array([box for photo in photos for box in photo.boxes], np.float32).reshape(-1, 4)
    offsets = np.cumsum([0, *(len(photo.boxes) for photo in photos)])
    arrays = labels, boxes, offsets
    seen = [_RECIPE, side, list(class_names), *(array.tolist() for array in arrays), content]
    lists = SplitLists(reader.name, split, *arrays, tuple(class_names), _digest(seen))
    if not stored:
        return write_photo_index(folder, lists, side, source.top, files)

    def one(file: str) -> np.ndarray:
        return decode_photo(source, file, side)

    with closing(in_parallel(one, files, f"decoding {title}")) as decoded:
        return write_image_set(folder, lists, (side, side), decoded)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
