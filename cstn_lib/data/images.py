"""`ImageSet`: one split of a data set, decoded once and memory-mapped.

Every data set of the project ends up as this one type, so that everything behind it (engine,
metrics, plots) knows a single layout:

* images are uint8 in (N, H, W, 3), the order in which a channels-last network reads them;
* boxes are ``xyxy`` floats in [0, 1] of the image, any number of them an image;
* a fingerprint identifies the content, so that a run is never mistaken for one on other data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch.utils.data import Dataset

from cstn_lib.atomic import atomic_directory
from cstn_lib.errors import InputError

__all__ = ["ImageSet", "open_image_set", "write_image_set"]


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset):
    """Decoded images with their labels and boxes.

    Attributes:
        name: the data set, e.g. ``"birds-cub"``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"pretext"``.
        images: (N, H, W, 3) uint8, usually a read-only memory map.
        labels: (N,) int64 in [0, number of classes).
        boxes: (M, 4) float32 ``xyxy`` in [0, 1], in the order of the images.
        box_offsets: (N + 1,) int64; the boxes of image i are rows box_offsets[i]:box_offsets[i +
        1].
        class_names: one name a class.
        fingerprint: identifies the content.
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    box_offsets: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[1], self.images.shape[2]

    def boxes_of(self, index: int) -> np.ndarray:
        """The (n, 4) ground-truth boxes of one image."""
        return self.boxes[self.box_offsets[index] : self.box_offsets[index + 1]]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch at once: images (B, 3, H, W) uint8 in channels-last memory, labels (B,).

        `torch.utils.data.DataLoader` calls this instead of collecting single items.
        """
        images = torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2)
        return images, torch.from_numpy(self.labels[indices])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One image (3, H, W) uint8 and its label."""
        images, labels = self.__getitems__([index])
        return images[0], labels[0]


def write_image_set(
    folder: Path,
    *,
    name: str,
    split: str,
    image_size: tuple[int, int],
    labels: np.ndarray,
    boxes: list[np.ndarray],
    class_names: Iterable[str],
    fingerprint: str,
    image_batches: Iterable[np.ndarray],
) -> ImageSet:
    """Write a split under `folder`, whole or not at all, and open it.

    Args:
        boxes: one (n, 4) array an image, n >= 0.
        image_batches: uint8 arrays (b, H, W, 3) that together hold the images in order; consumed
            one at a time, so that memory does not grow with the data.
    """
    offsets = np.concatenate([[0], np.cumsum([len(b) for b in boxes])]).astype(np.int64)
    flat = np.concatenate([np.reshape(b, (-1, 4)) for b in boxes]).astype(np.float32)
    with atomic_directory(folder) as temporary:
        images = open_memmap(
            temporary / "images.npy", "w+", np.uint8, (len(labels), *image_size, 3)
        )
        start = 0
        for batch in image_batches:
            images[start : start + len(batch)] = batch
            start += len(batch)
        if start != len(labels):
            raise ValueError(f"{start} images were drawn for {len(labels)} labels")
        images.flush()
        np.save(temporary / "labels.npy", np.asarray(labels, dtype=np.int64))
        np.save(temporary / "boxes.npy", flat)
        np.save(temporary / "box_offsets.npy", offsets)
        meta = {
            "name": name,
            "split": split,
            "class_names": list(class_names),
            "fingerprint": fingerprint,
        }
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    return open_image_set(folder)


def open_image_set(folder: Path) -> ImageSet:
    """Open a split written by `write_image_set`; the images stay on disk until they are read.

    Raises:
        InputError: a file of the folder is missing or damaged.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        arrays = {
            part: np.load(folder / f"{part}.npy", mmap_mode="c" if part == "images" else None)
            for part in ("images", "labels", "boxes", "box_offsets")
        }
        lengths = (len(arrays["images"]), len(arrays["labels"]), len(arrays["box_offsets"]) - 1)
        if len(set(lengths)) > 1 or arrays["box_offsets"][-1] != len(arrays["boxes"]):
            raise ValueError("its files differ in length")
        return ImageSet(
            name=meta["name"],
            split=meta["split"],
            class_names=tuple(meta["class_names"]),
            fingerprint=meta["fingerprint"],
            **arrays,
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{folder}: not a readable image set ({error}); delete the folder to have it made again"
        ) from error
