"""Photographs as the network sees them: upright, RGB, squashed to a square.

Every file that Pillow reads as a still image will do: grey, palette, CMYK and 16-bit ones become
8-bit RGB, transparent pixels show white, and the EXIF orientation is applied (to the boxes too, in
`cstn_lib.data.photos.photo_list`), once: some decoders apply it themselves. Resizing is
`torchvision.transforms.v2`'s, bilinear with antialiasing, to the square of section IV-A of the
paper; boxes in [0, 1] do not notice.

Photos are decoded by threads: Pillow releases the interpreter while it decodes and resizes, and
threads work in notebooks, scripts and loader processes alike.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageOps
from torch.utils.data import get_worker_info
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cstn_lib.data.photos.sources import FolderSource, Source
from cstn_lib.support.errors import InputError, first_line
from cstn_lib.support.machine import processors
from cstn_lib.support.progress import Progress

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
_EXPECTED = "expected a whole JPEG, PNG, BMP, GIF, TIFF or WebP image"
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112  # tags of TIFF, the last also of EXIF
_LIMIT = "CSTN_MAX_PIXELS"  # where set, of a photo, instead of Pillow's 179 million
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")

Item = TypeVar("Item")
Result = TypeVar("Result")


# One photo


def decode_photo(source: Source, file: str, side: int) -> np.ndarray:
    """One photo as (side, side, 3) uint8 RGB.

    Raises:
        InputError: the file is missing, damaged or of another kind.
    """
    data = io.BytesIO(source.read(file))
    with _opened(source, file, data) as image:
        image.load()  # which, of a TIFF, turns it and takes the tag away
        with suppress(Exception):  # the EXIF part may be damaged and the pixels whole
            ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(F.resize(_as_rgb(image), [side, side], InterpolationMode.BILINEAR))


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        # Pillow's own conversion cuts off at 255
        values = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """From 1 to 8; 1, upright, where the file does not say or its EXIF part is damaged."""
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # the pixels may be whole all the same
        found = None
    return found if found in range(1, 9) else 1


def read_headers(source: Source, files: Sequence[str], title: str = "") -> np.ndarray:
    """Sizes and orientations of photos, without decoding them.

    Args:
        title: of the progress bar.

    Returns:
        (N, 3) width and height in pixels of the stored raster, and the EXIF orientation, 1 to 8;
        width and height are 0 where the photo is not readable, which is reported as a fault.
    """

    def header(file: str) -> tuple[int, int, int]:
        with source.open(file) as data, _opened(source, file, data) as image:
            size = image.size
            if image.format == "TIFF":  # whose size may be the one that is shown
                size = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]
            return *size, _orientation(image)

    headers = [found or (0, 0, 1) for found in tried(source, header, files, title)]
    return np.array(headers, dtype=np.int64).reshape(-1, 3)


def tried(
    source: Source, work: Callable[[str], Result], files: Sequence[str], title: str
) -> Iterator[Result | None]:
    """As `in_parallel`, of photos; None for one that is not readable, which is a fault."""

    def one(file: str) -> Result | InputError:
        try:
            return work(file)
        except InputError as error:
            return error

    for file, found in zip(files, in_parallel(one, files, title), strict=True):
        if isinstance(found, InputError):
            kind = "truncated image" if "truncated" in str(found) else "unreadable image"
            source.faults.fault(kind if source.has(file) else "missing image", str(found))
            found = None
        yield found


@contextmanager
def _opened(source: Source, file: str, data: BinaryIO) -> Iterator[Image.Image]:
    """A photo; whatever the decoder raises on its bytes becomes one line that names the file."""
    if limit := os.environ.get(_LIMIT):
        if not limit.isdecimal():
            raise InputError(f"{_LIMIT}={limit}: expected a number of pixels")
        Image.MAX_IMAGE_PIXELS = -(-int(limit) // 2)  # there it warns; at the double it refuses
    try:
        with Image.open(data, formats=_FORMATS) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{source.where(file)}: too large ({first_line(error)}); to read it all the same, set "
            f"the environment variable {_LIMIT} to at least its number of pixels"
        ) from error
    except Exception as error:  # Pillow's plugins raise almost anything
        raise InputError(
            f"{source.where(file)}: damaged, {_EXPECTED} ({first_line(error)})"
        ) from error


# Many photos


class PhotoArray:
    """Photos on disk as the array (N, side, side, 3) uint8 that they are when decoded.

    It stands in for an array too large to keep: indexing decodes. Enough of NumPy is here for
    `cstn_lib.data.images.ImageSet` and for plots: shape, dtype, length, integers, slices and lists.

    Args:
        top: the folder that the names are relative to.
        files: (N,) bytes, the names in UTF-8; may be a memory map.
        side: of the square that the photos are resized to, in pixels.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, top: Path, files: np.ndarray, side: int) -> None:
        self.top = top
        self.files = files
        self.side = side

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.files), self.side, self.side, 3

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Decoded photos: (side, side, 3) for an integer, (n, side, side, 3) for several.

        Raises:
            InputError: a photo is missing or damaged.
        """
        chosen = self.files[rows]
        if isinstance(chosen, bytes):
            return self._decode(chosen).copy()
        photos = np.empty((len(chosen), *self.shape[1:]), dtype=np.uint8)
        for row, photo in enumerate(in_parallel(self._decode, chosen)):
            photos[row] = photo
        return photos

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def _decode(self, file: bytes) -> np.ndarray:
        return decode_photo(FolderSource(self.top), file.decode(), self.side)


def in_parallel(
    work: Callable[[Item], Result], items: Sequence[Item], title: str = ""
) -> Iterator[Result]:
    """Results in the order of `items`, by one thread per processor.

    The loader processes of a `torch.utils.data.DataLoader` share the processors between them.

    Args:
        title: of a progress bar; none where it is empty.
    """
    loader = get_worker_info()
    pool = _pool(os.getpid(), max(1, processors() // (loader.num_workers if loader else 1)))
    with Progress(total=len(items), desc=title, unit="image", disable=not title) as bar:
        for start in range(0, len(items), _AHEAD):
            # no further ahead, or a million photos would wait in memory for their turn
            for result in pool.map(work, items[start : start + _AHEAD]):
                yield result
                bar.update()


_AHEAD = 128


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """One pool per process: threads do not survive a fork."""
    return ThreadPoolExecutor(threads)
