"""`DataConfig`: which images, whatever their source."""

from __future__ import annotations

from dataclasses import dataclass

from cstn_lib.support.errors import InputError

SPLITS = ("train", "val", "test", "pretrain")
"""The last is for drawn data only."""


@dataclass(frozen=True)
class DataConfig:
    """Which images.

    Attributes:
        name: one of `cstn_lib.data.DATASETS`.
        image_size: side in pixels of the square images.
        train, val, test, pretrain: images per split; of drawn data exactly so many (None: 6,000,
            600, 1,200 and 6,000), of read data at most so many (None: all there are).
        head_tell: probability in [0, 1] that a drawn bird wears on its head a mark of its class, so
            that the head alone tells it; not used by the pretrain split.
        parts_tell: whether head, wing and tail are those of the class. False draws them at random,
            so that nothing but the mark of `head_tell` tells it; not used by the pretrain split.
        drawing: the seed of the drawing; another one draws other images.
    """

    name: str
    image_size: int = 80
    train: int | None = None
    val: int | None = None
    test: int | None = None
    pretrain: int | None = None
    head_tell: float = 0.0
    parts_tell: bool = True
    drawing: int = 0

    def __post_init__(self) -> None:
        for name in (*SPLITS, "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} = {value}: expected a positive number")
        if not 0 <= self.head_tell <= 1:
            raise InputError(f"head_tell = {self.head_tell}: expected a probability in [0, 1]")
        if self.drawing < 0:
            raise InputError(f"drawing = {self.drawing}: expected 0 or more")
