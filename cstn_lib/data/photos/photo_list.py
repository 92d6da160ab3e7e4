"""The photos of a split before any is decoded, and their boxes.

Boxes come in pixels; here they become fractions of the image as it is shown: divided by its size,
turned by its EXIF orientation, clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cstn_lib.data.photos.decoding import read_headers
from cstn_lib.data.photos.sources import Source


@dataclass(frozen=True)
class PhotoList:
    """The photos of a split, before any is decoded.

    Attributes:
        source: where the files are.
        files: N names, relative to the source's top.
        labels: (N,) int64.
        boxes: (M, 4) ``xyxy`` in [0, 1] of the upright image, in the order of the files.
        box_offsets: (N + 1,) as in `cstn_lib.data.images.ImageSet`.
        class_names: one per class.
    """

    source: Source
    files: Sequence[str]
    labels: np.ndarray
    boxes: np.ndarray
    box_offsets: np.ndarray
    class_names: Sequence[str]

    @classmethod
    def without_boxes(
        cls, source: Source, files: Sequence[str], labels: np.ndarray, class_names: Sequence[str]
    ) -> PhotoList:
        offsets = np.zeros(len(files) + 1, np.int64)
        return cls(source, files, labels, np.empty((0, 4)), offsets, class_names)

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


@dataclass(frozen=True)
class PixelBoxes:
    """Boxes as the annotations of a data set give them.

    Attributes:
        owners: (M,) the photo of each, by its row.
        pixels: (M, 4) ``xyxy`` in pixels, as edges: a box around all of an image w wide ends at w.
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
    *,
    title: str,
    sizes: np.ndarray,
    resized: bool = False,
) -> PhotoList:
    """A `PhotoList` from boxes in pixels; the sizes are read from the photos' headers.

    Boxes that reach outside are clipped and counted as an oddity. A photo that is not readable and
    a box without area are faults; a photo that has lost a box that way is left out.

    Args:
        title: of the progress bar.
        sizes: (N, 2) width and height that the boxes were measured in; 0 where not known. A photo
            of another size is a fault.
        resized: photos are copies of those, of any size: one of another shape is a fault, but for a
            square, to which it was squashed. All sizes are known.
    """
    stored, orientations = read_headers(source, files, title)
    shown = np.where((orientations > 4)[:, None], stored[:, ::-1], stored)
    usable = stored.all(axis=1)
    as_shown = np.full(len(files), given.as_shown)
    known = sizes.all(axis=1) & usable
    as_stored = _fits(sizes, stored, resized)
    as_shown |= known & ~as_stored & _fits(sizes, shown, resized)
    for row in np.flatnonzero(known & ~as_stored & ~as_shown):
        (width, height), (expected_width, expected_height) = stored[row], sizes[row]
        message = f"{width} x {height} pixels, expected {expected_width} x {expected_height}"
        message += " as in the annotations" + (", smaller, or a square" if resized else "")
        source.fault("photo of another size", message, files[row])
        usable[row] = False

    measured = sizes.copy() if resized else np.where(as_shown[:, None], shown, stored)
    measured[~usable] = 0
    turns = np.where(as_shown, 1, orientations)
    owners, boxes, empty = measured_boxes(source, given, measured, turns)
    usable[owners[empty]] = False
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(files)))])
    photos = PhotoList(source, files, np.asarray(labels), boxes, offsets, class_names)
    return photos if usable.all() else photos.take(np.flatnonzero(usable))


def _fits(sizes: np.ndarray, found: np.ndarray, resized: bool) -> np.ndarray:
    """Which photos of the sizes `found` (N, 2) may be those of `sizes` (N, 2)."""
    if not resized:
        return (sizes == found).all(axis=1)
    # a side of a smaller copy is off by up to a pixel
    crossed = np.abs(sizes[:, 0] * found[:, 1] - sizes[:, 1] * found[:, 0])
    return (crossed <= sizes.max(axis=1)) | (found[:, 0] == found[:, 1])


def measured_boxes(
    source: Source, given: PixelBoxes, sizes: np.ndarray, orientations: np.ndarray | None = None
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
    unit = given.pixels[order] / np.tile(sizes[owners], (1, 2))
    if orientations is not None:
        unit = turn_upright(unit, orientations[owners])
    boxes = unit.clip(0, 1)
    empty = ((unit[:, :2] >= unit[:, 2:]) | (boxes[:, :2] >= boxes[:, 2:])).any(axis=1)
    outside = (boxes != unit).any(axis=1)

    def shown(box: int) -> str:
        width, height = sizes[owners[box]]
        pixels = " ".join(f"{value:g}" for value in given.pixels[order[box]])
        return f"{given.where(order[box])}: box {pixels} %s its image of {width} x {height} pixels"

    for box in np.flatnonzero(empty):
        message = shown(box) % "covers nothing of"
        source.faults.fault("box without area", f"{message}, expected x0 < x1 and y0 < y1")
    clipped = np.flatnonzero(outside & ~empty)
    if len(clipped):
        message = shown(clipped[0]) % "leaves"
        source.faults.oddity("box partly outside, clipped", message, len(clipped))
    return owners, boxes, empty


def turn_upright(boxes: np.ndarray, orientations: np.ndarray) -> np.ndarray:
    """Boxes of the stored raster as boxes of the image that is shown.

    Args:
        boxes: (M, 4) ``xyxy`` in fractions of the stored raster.
        orientations: (M,) the EXIF orientation, 1 to 8, of each box's image.
    """
    # exchange of the axes, then a left-right flip, then a top-bottom flip
    steps = (
        (range(5, 9), lambda x0, y0, x1, y1: (y0, x0, y1, x1)),
        ((2, 3, 6, 7), lambda x0, y0, x1, y1: (1 - x1, y0, 1 - x0, y1)),
        ((3, 4, 7, 8), lambda x0, y0, x1, y1: (x0, 1 - y1, x1, 1 - y0)),
    )
    for turned, step in steps:
        chosen = np.isin(orientations, turned)[:, None]
        boxes = np.where(chosen, np.stack(step(*boxes.T), axis=1), boxes)
    return boxes
