"""`MapSet`: what a frozen backbone makes of a split, computed once and memory-mapped.

The maps of a backbone that is not trained are the same in every epoch of every training, and most
of its cost. They are kept beside the decoded images, in half precision, for each image and, where
it is trained on, for its mirror image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cstn_lib.data.images import ImageSet, SplitLists, made_before, mapped, write_rows
from cstn_lib.support.atomic import atomic_directory
from cstn_lib.support.disk import alone_in, writing
from cstn_lib.support.errors import InputError
from cstn_lib.support.progress import Progress

_RECIPE = 1  # goes up when the same inputs would give another file
_BATCH = 32  # images before their maps are written
_MAPS = "maps.npy"


@dataclass(frozen=True, eq=False)
class MapSet(SplitLists, Dataset):
    """The maps of an `ImageSet`: attributes of `SplitLists`, which are the images', and

    Attributes:
        maps: (N, M) or, with the mirror images behind the images, (2 N, M) float16: for each the
            map of every level, as (h, w, channels).
        shapes: (h, w, channels) by level.
        image_size: height and width of the images in pixels.
    """

    maps: np.ndarray
    shapes: Mapping[str, Sequence[int]]
    image_size: tuple[int, int]

    def oriented(self, rows: np.ndarray, mirrored: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """Maps by level, (B, channels, h, w) float16, and labels (B,).

        Args:
            mirrored: (B,) which of them are of the mirror image.
        """
        found = torch.from_numpy(self.maps[rows + len(self) * mirrored])
        parts = found.split([prod(shape) for shape in self.shapes.values()], dim=1)
        maps = {
            name: part.reshape(-1, *shape).permute(0, 3, 1, 2)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        return maps, torch.from_numpy(self.labels[rows])

    def __getitems__(self, indices: list[int]) -> tuple[dict[str, Tensor], Tensor]:
        """As `oriented`, none of them mirrored."""
        return self.oriented(np.asarray(indices), np.zeros(len(indices), dtype=bool))


def open_maps(
    images: ImageSet,
    backbone: object,
    compute: Callable[[Tensor], dict[str, Tensor]],
    *,
    mirrored: bool,
) -> MapSet:
    """The maps of a split, computed on the first call, with a progress bar.

    They lie in the folder ``maps`` beside the split's, under a name that covers images and
    backbone, and appear there whole or not at all. Of two processes that want the same the second
    waits for the first.

    Args:
        images: a split that is stored decoded (`is_stored`).
        backbone: what else the maps depend on, for JSON.
        compute: of images (b, 3, H, W) uint8 the maps by level, (b, channels, h, w) float16.
        mirrored: whether those of the mirror images are wanted, too.

    Raises:
        InputError: a map has a value that half precision cannot hold, or the folder cannot be
            written or read.
    """
    place = Path(images.images.filename).parent
    key = json.dumps([_RECIPE, images.fingerprint, backbone, mirrored])
    digest = sha256(key.encode()).hexdigest()[:16]
    folder = place.parent / "maps" / f"{images.split}-{digest}"
    if not folder.is_dir():
        with writing(folder), alone_in(folder.parent, f".{folder.name}.lock"):
            if not folder.is_dir():  # made by another process in the meantime
                _write(folder, images, compute, mirrored)
    with made_before(folder, "maps"):
        shapes = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        maps = mapped(folder / _MAPS)
        if maps.shape != _shape(images, shapes, mirrored) or maps.dtype != np.float16:
            raise ValueError(f"{maps.dtype} {maps.shape}")
    lists = {name: getattr(images, name) for name in SplitLists.__dataclass_fields__}
    return MapSet(**lists, maps=maps, shapes=shapes, image_size=images.image_size)


def is_stored(images: ImageSet) -> bool:
    """Whether a split lies on disk, decoded: then so may its maps."""
    return bool(getattr(images.images, "filename", None))


def _write(
    folder: Path,
    images: ImageSet,
    compute: Callable[[Tensor], dict[str, Tensor]],
    mirrored: bool,
) -> None:
    count = len(images)

    def maps_of(rows: np.ndarray) -> dict[str, np.ndarray]:
        """(b, h, w, channels) by level; row N + i is the mirror image of image i."""
        found = compute(images.oriented(rows % count, rows >= count)[0])
        return {name: maps.cpu().permute(0, 2, 3, 1).numpy() for name, maps in found.items()}

    shapes = {name: maps.shape[1:] for name, maps in maps_of(np.arange(1)).items()}
    shape = _shape(images, shapes, mirrored)

    def rows() -> Iterator[np.ndarray]:
        title = f"maps of {images.name} {images.split}"
        with Progress(total=shape[0], desc=title, unit="image") as bar:
            for start in range(0, shape[0], _BATCH):
                some = np.arange(start, min(start + _BATCH, shape[0]))
                maps = [level.reshape(len(some), -1) for level in maps_of(some).values()]
                batch = np.concatenate(maps, axis=1)
                if not np.isfinite(batch).all():
                    raise InputError(
                        f"{folder}: a map of the backbone has values that half precision cannot "
                        "hold, expected them below 65,504; train it with frozen_stages 0"
                    )
                yield from batch
                bar.update(len(some))

    with atomic_directory(folder) as temporary:
        write_rows(temporary / _MAPS, shape, np.float16, rows())
        (temporary / "meta.json").write_text(json.dumps(shapes), encoding="utf-8")


def _shape(
    images: ImageSet, shapes: Mapping[str, Sequence[int]], mirrored: bool
) -> tuple[int, int]:
    return len(images) * (1 + mirrored), sum(prod(shape) for shape in shapes.values())
