"""The published boxes of CUB-200-2011 and ILSVRC, without a single image.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right" (2020), published
lists for both data sets, each with ``train``, ``val`` (images of its own, CUBV2 and ImageNetV2) and
``test``:

    metadata/CUB/SPLIT/image_ids.txt       path of each image
    metadata/CUB/SPLIT/image_sizes.txt     path, width, height
    metadata/CUB/SPLIT/localization.txt    path, x0, y0, x1, y1; pixels, one line per box

and likewise for ILSVRC, of which ``train`` has no boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cstn_lib.data.photos.faults import quoted
from cstn_lib.data.photos.photo_list import Photo, unit_boxes
from cstn_lib.data.photos.sources import FolderSource
from cstn_lib.data.photos.text_table import Line, table_lines


class PublishedBoxes(NamedTuple):
    """The boxes of a split.

    Attributes:
        files: N paths of images, relative to wherever those are.
        boxes: (M, 4) float64 ``xyxy`` in [0, 1], in the order of the files.
        box_offsets: (N + 1,) as in `cstn_lib.data.images.SplitLists`.
    """

    files: list[str]
    boxes: np.ndarray
    box_offsets: np.ndarray


def read_wsol_metadata(root: Path, dataset: str, split: str) -> PublishedBoxes | None:
    """The boxes of a split.

    Args:
        root: the folder with ``metadata``, or with the data set's folder itself.
        dataset: ``"CUB"`` or ``"ILSVRC"``.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Returns:
        None where `root` holds no lists of that split.

    Raises:
        InputError: the lists are there, but not as expected.
    """
    places = (f"metadata/{dataset}/{split}", f"{dataset}/{split}")
    folder = next((place for place in places if (root / place).is_dir()), None)
    if folder is None:
        return None
    source = FolderSource(root, f"the WSOL metadata of {dataset}")

    def lines(name: str, *columns: str) -> Iterator[Line]:
        return table_lines(source, f"{folder}/{name}.txt", ("path", *columns), ",")

    sizes = {line.values[0]: line.numbers(2) for line in lines("image_sizes", "width", "height")}
    photos = {}
    for line in lines("image_ids"):
        (image,) = line.values
        photos[image] = Photo(image, 0, [], [], sizes.get(image, (0, 0)))
    for line in lines("localization", "x0", "y0", "x1", "y1"):
        photo = photos.get(line.values[0])
        if photo is None or min(photo.size) <= 0:
            message = f"image {quoted(line.values[0])}, expected one of image_ids.txt and "
            line.fault("unknown image", f"{message}image_sizes.txt")
        photo.boxes.append(line.numbers(4))
        photo.places.append(line.where)
    boxes = [unit_boxes(source, photo, photo.size) for photo in photos.values()]
    offsets = np.cumsum([0, *map(len, boxes)])
    return PublishedBoxes(list(photos), np.concatenate([box for box in boxes if box]), offsets)
