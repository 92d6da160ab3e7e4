"""The photos of a split before any is decoded, and their boxes.

Boxes come in pixels; here they become fractions of the image as it is shown: divided by its size,
turned by its EXIF orientation, clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cstn_lib.data.photos.decoding import read_headers
from cstn_lib.data.photos.sources import Source


class Photo(NamedTuple):
    """A photo as the annotations describe it.

    Attributes:
        boxes: ``xyxy`` in pixels, as edges: a box around all of an image w wide ends at w. What
            `measured` returns has them in [0, 1].
        places: where each box was read, for messages.
        size: width and height in pixels that they were measured in; 0 where not known.
    """

    file: str
    label: int
    boxes: Sequence[Sequence[float]] = ()
    places: Sequence[str] = ()
    size: tuple[int, int] = (0, 0)


def measured(
    source: Source,
    photos: Sequence[Photo],
    title: str,
    *,
    as_shown: bool = False,
    resized: bool = False,
) -> list[Photo]:
    """Photos with boxes in [0, 1]; their sizes are read from the files.

    A photo that is not readable, that has another size than the annotations say, or a box without
    area is a fault and left out.

    Args:
        title: of the progress bar.
        as_shown: whether boxes belong to the image as shown, turned by its EXIF orientation; False:
            to the stored raster, as software and browsers showed it when the archives were made,
            unless only the shown one has the annotations' size.
        resized: photos are copies of those of the annotations, of any size: one of another shape is
            a fault, but for a square, to which it was squashed. All sizes are known.
    """
    found = []
    headers = read_headers(source, [photo.file for photo in photos], title)
    for photo, (*stored, orientation) in zip(photos, headers.tolist(), strict=True):
        shown = stored[::-1] if orientation > 4 else stored
        turned = as_shown
        if not all(stored):  # a fault already
            continue
        if all(photo.size) and not _fits(photo.size, stored, resized):
            turned = turned or _fits(photo.size, shown, resized)
            if not turned:
                message = "{} x {} pixels, expected {} x {} as in the annotations".format(
                    *stored, *photo.size
                )
                message += ", smaller, or a square" if resized else ""
                source.fault("photo of another size", message, photo.file)
                continue
        size = photo.size if resized else shown if turned else stored
        boxes = unit_boxes(source, photo, size, 1 if turned else orientation)
        if boxes is not None:
            found.append(photo._replace(boxes=boxes))
    return found


def _fits(size: Sequence[int], found: Sequence[int], resized: bool) -> bool:
    """Whether a photo of the size `found` may be that of `size`."""
    if not resized:
        return list(size) == list(found)
    # a side of a smaller copy is off by up to a pixel
    crossed = abs(size[0] * found[1] - size[1] * found[0])
    return crossed <= max(size) or found[0] == found[1]


def unit_boxes(
    source: Source, photo: Photo, size: Sequence[int], orientation: int = 1
) -> list[list[float]] | None:
    """The boxes of a photo as fractions of the upright image.

    One that reaches outside is clipped, an oddity; one without area is a fault.

    Args:
        size: width and height that they were measured in.
        orientation: by which they have still to be turned, as in EXIF.

    Returns:
        ``xyxy`` in [0, 1]; None where a box has no area.
    """
    boxes = []
    for pixels, place in zip(photo.boxes, photo.places, strict=True):
        x0, y0, x1, y1 = pixels
        unit = [x0 / size[0], y0 / size[1], x1 / size[0], y1 / size[1]]
        unit = turn_upright(unit, orientation)
        boxes.append([min(max(end, 0.0), 1.0) for end in unit])
        x0, y0, x1, y1 = boxes[-1]
        ends = " ".join(f"{end:g}" for end in pixels)
        of_image = f"its image of {size[0]} x {size[1]} pixels"
        if x0 >= x1 or y0 >= y1:
            message = f"{place}: box {ends} covers nothing of {of_image}"
            source.faults.fault("box without area", f"{message}, expected x0 < x1 and y0 < y1")
            return None
        if boxes[-1] != unit:
            message = f"{place}: box {ends} leaves {of_image}"
            source.faults.oddity("box partly outside, clipped", message)
    return boxes


def turn_upright(box: Sequence[float], orientation: int) -> list[float]:
    """A box of the stored raster as one of the image that is shown.

    Args:
        box: ``xyxy`` in fractions of the stored raster.
        orientation: 1 to 8, as in EXIF.
    """
    x0, y0, x1, y1 = box
    if orientation in (5, 6, 7, 8):
        x0, y0, x1, y1 = y0, x0, y1, x1
    if orientation in (2, 3, 6, 7):
        x0, x1 = 1 - x1, 1 - x0
    if orientation in (3, 4, 7, 8):
        y0, y1 = 1 - y1, 1 - y0
    return [x0, y0, x1, y1]
