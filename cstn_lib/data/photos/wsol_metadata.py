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
from cstn_lib.data.photos.photo_list import PixelBoxes, measured_boxes
from cstn_lib.data.photos.sources import FolderSource
from cstn_lib.data.photos.text_table import Line, TextTable


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
        return TextTable(source, f"{folder}/{name}.txt", ("path", *columns), ",").lines()

    row_of = {line.values[0]: row for row, line in enumerate(lines("image_ids"))}
    sizes = np.zeros((len(row_of), 2))
    for line in lines("image_sizes", "width", "height"):
        if line.values[0] in row_of:
            sizes[row_of[line.values[0]]] = line.box(line.values[1:])
    owners, pixels, places = [], [], []
    for line in lines("localization", "x0", "y0", "x1", "y1"):
        image = line.values[0]
        if image not in row_of or sizes[row_of[image]].min() <= 0:
            message = f"image {quoted(image)}, expected one of image_ids.txt and image_sizes.txt"
            line.fault("unknown image", message)
        owners.append(row_of[image])
        pixels.append(line.box(line.values[1:]))
        places.append(line.where)
    edges = np.array(pixels, dtype=float).reshape(-1, 4)
    given = PixelBoxes(np.array(owners, dtype=np.int64), edges, places.__getitem__)
    owners, boxes, _ = measured_boxes(source, given, sizes)
    offsets = np.cumsum([0, *np.bincount(owners, minlength=len(row_of))])
    return PublishedBoxes(list(row_of), boxes, offsets)
