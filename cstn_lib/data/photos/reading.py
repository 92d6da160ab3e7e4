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
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from cstn_lib.data.images import (
    ImageSet,
    SplitLists,
    open_image_set,
    write_photo_index,
    write_photo_set,
)
from cstn_lib.data.photos.boxes import clip, turn_upright, unit_boxes
from cstn_lib.data.photos.decoding import decode_photo, in_parallel, read_headers
from cstn_lib.data.photos.faults import Faults
from cstn_lib.data.photos.order import in_turns
from cstn_lib.data.photos.sources import FolderSource, Source
from cstn_lib.support.errors import InputError, unknown_name

__all__ = [
    "SPLITS",
    "STORED_AT_MOST",
    "PhotoList",
    "PixelBoxes",
    "Published",
    "Reader",
    "measured_boxes",
    "open_photos",
    "peek_photos",
    "stored_bytes",
    "unit_photo_list",
]

SPLITS = ("train", "val", "test")
STORED_AT_MOST = 20_000_000_000
"""Bytes of decoded pixels; a larger split is decoded on the fly, but for photos in a zip."""

_RECIPE = 3  # goes up when the same source would be turned into other arrays
_BATCH = 64  # images decoded before they are written


@dataclass(frozen=True)
class PhotoList:
    """The photos of a split, before any is decoded.

    Attributes:
        source: where the files are.
        files: N names, relative to the source's top.
        labels: (N,) int64.
        boxes: (M, 4) ``xyxy`` in [0, 1] of the upright image, in the order of the files.
        box_offsets: (N + 1,) as in `cstn_lib.data.images.ImageSet`.
        class_names: one a class.
        only_size: width and height in pixels that every photo must have.
    """

    source: Source
    files: Sequence[str]
    labels: np.ndarray
    boxes: np.ndarray
    box_offsets: np.ndarray
    class_names: Sequence[str]
    only_size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: np.ndarray) -> PhotoList:
        """The photos of these rows, in this order."""
        counts = np.diff(self.box_offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        chosen = np.repeat(self.box_offsets[:-1][rows] - offsets[:-1], counts)
        return replace(
            self,
            files=[self.files[row] for row in rows],
            labels=self.labels[rows],
            boxes=self.boxes[chosen + np.arange(len(chosen))],
            box_offsets=offsets,
        )


class Published(NamedTuple):
    """How large a data set is when it is complete.

    Attributes:
        classes: how many.
        images: by split, or by splits that share a folder, such as ``"train+val"``.
    """

    classes: int
    images: Mapping[str, int]


class Reader(ABC):
    """A data set under the user's root; one subclass a layout.

    Attributes:
        name: of `cstn_lib.data.DATASETS`.
        published: None for data of the user's own.
        source: where the files are.
        has_photos: whether there is more than annotations.
        splits: those that are there; without photos, not all need be.
    """

    name: ClassVar[str]
    published: ClassVar[Published | None] = None
    source: Source
    has_photos = True
    splits: Sequence[str] = SPLITS

    @classmethod
    @abstractmethod
    def open(cls, root: Path) -> AbstractContextManager[Reader]:
        """The data set under `root`.

        Raises:
            InputError: it is not there.
        """

    @abstractmethod
    def identity(self, split: str) -> object:
        """Names and numbers, for JSON, that change with the split; reads no photo."""

    def lasting_name(self, file: str) -> str:
        """What the order of the photos follows from: the same in every layout of the data set."""
        return file

    @abstractmethod
    def photos(self, split: str, faults: Faults) -> PhotoList:
        """The photos of a split, in any order; what is wrong with them goes to `faults`.

        Raises:
            InputError: a part of the layout is missing.
        """

    def listed(self, split: str, faults: Faults) -> PhotoList:
        """As `photos`, for a check, also where there are annotations alone."""
        return self.photos(split, faults)


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

    Images come class after class in turns (`cstn_lib.data.photos.order.in_turns`).

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
    with _listed(reader, root, split, image_size, data_dir, limit) as (folder, found):
        if isinstance(found, ImageSet):
            return found
        return _write(reader.name, split, found, image_size, folder)


def peek_photos(
    reader: type[Reader],
    root: Path,
    split: str,
    *,
    image_size: int,
    data_dir: Path,
    limit: int | None = None,
) -> ImageSet | PhotoList:
    """As `open_photos`, but of a split that is not there yet the list, and nothing is written."""
    with _listed(reader, root, split, image_size, data_dir, limit) as (_, found):
        return found


def stored_bytes(photos: PhotoList, side: int) -> int:
    """Of pixels that `open_photos` keeps of these photos; 0: they are decoded on the fly."""
    pixels = len(photos) * side * side * 3
    return pixels if pixels <= STORED_AT_MOST or not isinstance(photos.source, FolderSource) else 0


@contextmanager
def _listed(
    reader: type[Reader], root: Path, split: str, image_size: int, data_dir: Path, limit: int | None
) -> Iterator[tuple[Path, ImageSet | PhotoList]]:
    """The folder of a split and what is in it, or the photos that belong there."""
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    for name, value in (("image_size", image_size), ("limit", limit)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: expected 1 or more")
    with reader.open(Path(root)) as opened:
        identity = [_RECIPE, image_size, limit, opened.identity(split)]
        folder = Path(data_dir) / reader.name / f"{split}-{_digest(identity)}"
        if folder.is_dir():
            yield folder, open_image_set(folder)
            return
        faults = Faults()
        photos = opened.photos(split, faults)
        if not len(photos):
            raise InputError(f"{root}: no photo of split {split!r}, expected some")
        faults.warn()
        names = [opened.lasting_name(file) for file in photos.files]
        yield folder, photos.take(in_turns(names, photos.labels)[:limit])


def _write(name: str, split: str, photos: PhotoList, side: int, folder: Path) -> ImageSet:
    stored = stored_bytes(photos, side) > 0
    if stored:
        title = f"reading {name} {split}"
        content = list(in_parallel(photos.source.checksum, photos.files, title))
    else:
        content = list(photos.files)
    lists = SplitLists(
        name,
        split,
        photos.labels,
        photos.boxes,
        photos.box_offsets,
        photos.class_names,
        _digest(
            [
                _RECIPE,
                side,
                list(photos.class_names),
                photos.labels.tolist(),
                photos.boxes.astype(np.float32).tolist(),
                photos.box_offsets.tolist(),
                content,
            ]
        ),
    )
    if not stored:
        return write_photo_index(folder, lists, side, photos.source.top, photos.files)

    def decode(start: int) -> Iterator[np.ndarray]:
        def one(file: str) -> np.ndarray:
            return decode_photo(photos.source, file, side, photos.only_size)

        waiting: list[np.ndarray] = []
        for photo in in_parallel(one, photos.files[start:], f"decoding {name} {split}"):
            waiting.append(photo)
            if len(waiting) == _BATCH:
                yield np.stack(waiting)
                waiting.clear()
        if waiting:
            yield np.stack(waiting)

    return write_photo_set(folder, lists, side, decode)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


# Boxes in pixels


@dataclass(frozen=True)
class PixelBoxes:
    """Boxes as the annotations of a data set give them.

    Attributes:
        owners: (M,) the photo of each, by its row.
        pixels: (M, 4) ``xyxy``.
        where: names the line of box m, for messages.
        as_shown: whether they belong to the image as shown, turned by its EXIF orientation; False:
            to the stored raster, as software and browsers showed it when the archives were made.
    """

    owners: np.ndarray
    pixels: np.ndarray
    where: Callable[[int], str]
    as_shown: bool = False


def unit_photo_list(
    source: Source,
    files: Sequence[str],
    labels: np.ndarray,
    class_names: Sequence[str],
    given: PixelBoxes,
    faults: Faults,
    *,
    title: str,
    sizes: np.ndarray | None = None,
) -> PhotoList:
    """A `PhotoList` from boxes in pixels; the sizes are read from the photos' headers.

    Boxes that reach outside are clipped and counted as an oddity. A photo that is not readable and
    a box without area are faults; a photo that has lost a box that way is left out.

    Args:
        title: of the progress bar.
        sizes: (N, 2) width and height that the boxes were measured in; 0 where not known. A photo
            of another size is a fault.
    """
    stored, orientations = read_headers(source, files, faults, title)
    shown = np.where((orientations > 4)[:, None], stored[:, ::-1], stored)
    usable = stored.all(axis=1)
    as_shown = np.full(len(files), given.as_shown)
    if sizes is not None:
        known = sizes.all(axis=1) & usable
        as_stored = (sizes == stored).all(axis=1)
        as_shown |= known & ~as_stored & (sizes == shown).all(axis=1)
        for row in np.flatnonzero(known & ~as_stored & ~as_shown):
            faults.fault(
                "photo of another size",
                f"{source.where(files[row])}: {stored[row, 0]} x {stored[row, 1]} pixels, "
                f"expected {sizes[row, 0]} x {sizes[row, 1]} as in the annotations",
            )
            usable[row] = False

    measured = np.where(as_shown[:, None], shown, stored)
    measured[~usable] = 0
    owners, boxes, empty = measured_boxes(
        given, measured, np.where(as_shown, 1, orientations), faults
    )
    usable[owners[empty]] = False
    counts = np.bincount(owners, minlength=len(files))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    photos = PhotoList(source, files, np.asarray(labels), boxes, offsets, class_names)
    return photos if usable.all() else photos.take(np.flatnonzero(usable))


def measured_boxes(
    given: PixelBoxes, sizes: np.ndarray, orientations: np.ndarray, faults: Faults
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes in pixels as fractions of the upright image, clipped.

    Args:
        sizes: (N, 2) width and height that each photo's boxes were measured in; 0 where not known:
            its boxes are left out.
        orientations: (N,) EXIF orientation that its boxes have still to be turned by.

    Returns:
        (M,) the photo of each box, ascending; (M, 4) boxes; (M,) which have no area, a fault.
    """
    order = np.argsort(given.owners, kind="stable")
    order = order[sizes.all(axis=1)[given.owners[order]]]
    owners = given.owners[order]
    unit = unit_boxes(given.pixels[order], sizes[owners])
    boxes, outside, empty = clip(turn_upright(unit, orientations[owners]))

    def shown(box: int) -> str:
        width, height = sizes[owners[box]]
        pixels = " ".join(f"{value:g}" for value in given.pixels[order[box]])
        return f"{given.where(order[box])}: box {pixels} %s its image of {width} x {height} pixels"

    for box in np.flatnonzero(empty):
        message = shown(box) % "covers nothing of"
        faults.fault("box without area", f"{message}, expected x0 < x1 and y0 < y1")
    clipped = np.flatnonzero(outside & ~empty)
    if len(clipped):
        message = shown(clipped[0]) % "leaves"
        faults.oddity("box partly outside, clipped", message, len(clipped))
    return owners, boxes, empty
