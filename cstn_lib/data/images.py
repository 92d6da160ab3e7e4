"""`ImageSet`: one split of a data set, decoded once and memory-mapped.

Every data set of the project ends up as this one type, so that everything behind it (engine,
metrics, plots) knows a single layout. A split too large to keep decoded is kept as a list of its
photos, and its ``images`` decode when they are indexed
(`cstn_lib.data.photos.decoding.PhotoArray`).

* images are uint8 in (N, H, W, 3), the order in which a channels-last network reads them;
* boxes are ``xyxy`` floats in [0, 1] of the image, any number of them per image;
* a fingerprint identifies the content, so that a run is never mistaken for one on other data.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import horizontal_flip

from cstn_lib.data.photos.decoding import PhotoArray
from cstn_lib.support.atomic import atomic_directory
from cstn_lib.support.disk import need_space
from cstn_lib.support.errors import InputError


@dataclass(frozen=True, eq=False)
class SplitLists:
    """Everything of a split but its images.

    Attributes:
        name: the data set, e.g. ``"birds-cub"``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"pretrain"``.
        labels: (N,) int64 in [0, number of classes).
        boxes: (M, 4) float32 ``xyxy`` in [0, 1], in the order of the images.
        box_offsets: (N + 1,) int64; the boxes of image i are rows box_offsets[i]:box_offsets[i +
            1].
        class_names: one name per class.
        fingerprint: identifies the content.
    """

    name: str
    split: str
    labels: np.ndarray
    boxes: np.ndarray
    box_offsets: np.ndarray
    class_names: Sequence[str]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def boxes_of(self, index: int) -> np.ndarray:
        """The (n, 4) ground-truth boxes of one image."""
        return self.boxes[self.box_offsets[index] : self.box_offsets[index + 1]]

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is given the split: a mapped file by its name, not by its content."""

        def told(value: object) -> object:
            name = getattr(value, "filename", None)
            whole = name and isinstance(value.base, mmap.mmap)  # all of the file, not a slice
            return Path(name) if whole else value

        return {name: told(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            vars(self)[name] = mapped(value) if isinstance(value, Path) else value


@dataclass(frozen=True, eq=False)
class ImageSet(SplitLists, Dataset):
    """Decoded images with their labels and boxes: attributes of `SplitLists`, and

    Attributes:
        images: (N, H, W, 3) uint8, usually a memory map; of a very large split an array that
            decodes when it is indexed.
    """

    images: np.ndarray | PhotoArray

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[1], self.images.shape[2]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch at once: images (B, 3, H, W) uint8 in channels-last memory, labels (B,).

        `torch.utils.data.DataLoader` calls this instead of collecting single items.
        """
        images = torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2)
        return images, torch.from_numpy(self.labels[indices])

    def oriented(self, rows: np.ndarray, mirrored: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """As `__getitems__`, with those images mirrored for which `mirrored` (B,) is true."""
        images, labels = self.__getitems__(rows.tolist())
        chosen = torch.from_numpy(mirrored)
        images[chosen] = horizontal_flip(images[chosen])
        return images, labels

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One image (3, H, W) uint8 and its label."""
        images, labels = self.__getitems__([index])
        return images[0], labels[0]


def write_image_set(
    folder: Path, lists: SplitLists, size: tuple[int, int], images: Iterable[np.ndarray]
) -> ImageSet:
    """Write a split under `folder`, whole or not at all, and open it.

    Args:
        size: height and width of the images in pixels.
        images: uint8 arrays (H, W, 3) in order; consumed one at a time, so that memory does not
            grow with the data.

    Raises:
        InputError: `folder` cannot be written, or an image cannot be read.
    """
    with atomic_directory(folder) as temporary:
        write_rows(temporary / _IMAGES, (len(lists), *size, 3), np.uint8, images)
        _write_lists(temporary, lists)
    return open_image_set(folder)


def write_photo_index(
    folder: Path, lists: SplitLists, side: int, top: Path, files: Sequence[str]
) -> ImageSet:
    """Write a split as a list of its photos, which are decoded whenever they are used.

    Args:
        side: of the square images, in pixels.
        top: the folder that `files` are relative to.

    Raises:
        InputError: `folder` cannot be written.
    """
    with atomic_directory(folder) as temporary:
        np.save(temporary / _FILES, np.array([file.encode() for file in files], dtype=np.bytes_))
        _write_lists(temporary, lists, top=str(top.resolve()), side=side)
    return open_image_set(folder)


def open_image_set(folder: Path) -> ImageSet:
    """Open a split written by one of these functions; images stay on disk until they are read.

    Raises:
        InputError: a file of the folder is missing or damaged.
    """
    with made_before(folder, "images"):
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        texts = {part: meta[part] for part in _TEXTS} | {"class_names": tuple(meta["class_names"])}
        lists = {part: np.load(folder / f"{part}.npy") for part in _LISTS}
        if (folder / _FILES).is_file():
            files = np.load(folder / _FILES, mmap_mode="r")
            images = PhotoArray(Path(meta["top"]), files, meta["side"])
        else:
            images = mapped(folder / _IMAGES)
        found = ImageSet(images=images, **texts, **lists)
        lengths = {len(images), len(found), len(found.box_offsets) - 1}
        if len(lengths) > 1 or found.box_offsets[-1] != len(found.boxes):
            raise ValueError("its files differ in length")
        return found


@contextmanager
def made_before(folder: Path, what: str) -> Iterator[None]:
    """Whatever is wrong with the files of a folder of ours, as an `InputError`."""
    try:
        yield
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder}: not readable {what} ({error}); delete the folder to have them made again"
        ) from error


# The files of a split

_IMAGES, _FILES = "images.npy", "files.npy"
_LISTS = {"labels": np.int64, "boxes": np.float32, "box_offsets": np.int64}
_TEXTS = ("name", "split", "class_names", "fingerprint")


def mapped(path: Path) -> np.ndarray:
    """The array of a file; who writes to it changes a copy."""
    return np.load(path, mmap_mode="c")


def _write_lists(folder: Path, lists: SplitLists, **more: object) -> None:
    for part, kind in _LISTS.items():
        np.save(folder / f"{part}.npy", np.asarray(getattr(lists, part), dtype=kind))
    meta = {part: getattr(lists, part) for part in _TEXTS} | more
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def write_rows(
    path: Path, shape: tuple[int, ...], kind: type[np.generic], rows: Iterable[np.ndarray]
) -> None:
    """An array of that shape and kind in a .npy file, row after row.

    Written as a file, not through a memory map: where the disk is full, that is an error, and not
    the end of the process.

    Raises:
        InputError: the disk has too little space for it.
    """
    need_space(path.parent, prod(shape) * np.dtype(kind).itemsize, path.parent.parent)
    there = 0
    with open(path, "wb") as file:
        header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for row in rows:
            if row.shape != shape[1:] or row.dtype != kind:
                raise ValueError(f"row {row.dtype} {row.shape}, expected {kind} {shape[1:]}")
            file.write(np.ascontiguousarray(row).data)
            there += 1
    if there != shape[0]:
        raise ValueError(f"{there} rows were made, expected {shape[0]}")
