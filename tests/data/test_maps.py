"""Maps of frozen stages: computed once, kept whole, and the same wherever they come from."""

from __future__ import annotations

import errno
import pickle
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import NoSpace
from torch import Tensor
from torch.nn import functional as F

from cstn_lib.data import images as images_module
from cstn_lib.data import maps as maps_module
from cstn_lib.data.images import ImageSet, SplitLists, write_image_set
from cstn_lib.data.maps import MapSet, is_stored, open_maps
from cstn_lib.support.errors import InputError

SIZE, COUNT = 16, 11


def compute(images: Tensor) -> dict[str, Tensor]:
    """Two levels of 3 and 5 channels, which a mirror image does not share."""
    images = images.float() / 255
    fine = F.avg_pool2d(images, 4)
    ramp = torch.arange(SIZE) / SIZE
    coarse = F.avg_pool2d(images * ramp, 8)
    return {"4": fine.half(), "5": torch.cat([coarse, coarse[:, :2] ** 2], dim=1).half()}


def stored(folder: Path, seed: int = 0) -> ImageSet:
    random = np.random.default_rng(seed)
    lists = SplitLists(
        name="random",
        split="train",
        labels=np.arange(COUNT) % 3,
        boxes=np.zeros((COUNT // 2, 4)),
        box_offsets=np.arange(COUNT + 1) // 2,
        class_names=("a", "b", "c"),
        fingerprint=f"seed {seed}",
    )
    pixels = random.integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    return write_image_set(folder, lists, (SIZE, SIZE), pixels)


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return stored(tmp_path / "random" / "train-0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "random" / "maps"


def opened(images: ImageSet, backbone: object = "b", mirrored: bool = True, **options) -> MapSet:
    return open_maps(images, backbone, options.pop("compute", compute), mirrored=mirrored)


def counting(calls: list[int]) -> Callable[[Tensor], dict[str, Tensor]]:
    def counted(batch: Tensor) -> dict[str, Tensor]:
        calls.append(len(batch))
        return compute(batch)

    return counted


# What is in them


@pytest.mark.parametrize("batch", [4, 64])
def test_they_are_what_is_computed(images: ImageSet, batch: int, monkeypatch):
    monkeypatch.setattr(maps_module, "_BATCH", batch)
    maps = opened(images)
    rows = np.array([3, 0, 10, 3])
    for mirrored in ([False] * 4, [True] * 4, [True, False, False, True]):
        found, labels = maps.oriented(rows, np.array(mirrored))
        pictures, expected_labels = images.oriented(rows, np.array(mirrored))
        assert torch.equal(labels, expected_labels)
        for name, expected in compute(pictures).items():
            assert torch.equal(found[name], expected) and found[name].dtype == torch.float16
    plain, _ = maps.__getitems__([0, 1])
    assert torch.equal(plain["5"], compute(images.__getitems__([0, 1])[0])["5"])


def test_they_have_the_lists_of_their_images(images: ImageSet):
    maps = opened(images, mirrored=False)
    assert len(maps) == COUNT and maps.maps.shape == (COUNT, 4 * 4 * 3 + 2 * 2 * 5)
    assert (maps.name, maps.split, maps.image_size) == ("random", "train", (SIZE, SIZE))
    assert maps.num_classes == 3
    for i in range(COUNT):
        np.testing.assert_array_equal(maps.boxes_of(i), images.boxes_of(i))


def test_another_process_is_told_the_file(images: ImageSet):
    maps = opened(images)
    told = pickle.dumps(maps)
    assert maps.maps.tobytes() not in told
    again = pickle.loads(told)
    assert again.maps.filename == maps.maps.filename
    assert torch.equal(again.__getitems__([2])[0]["4"], maps.__getitems__([2])[0]["4"])


# Computed once


def test_the_second_opening_computes_nothing(images: ImageSet):
    first = opened(images)
    again = opened(images, compute=lambda batch: pytest.fail("computed again"))
    np.testing.assert_array_equal(again.maps, first.maps)


def test_another_image_backbone_or_orientation_has_its_own(images: ImageSet, tmp_path: Path):
    other = stored(tmp_path / "random" / "train-1", seed=1)
    made = [
        opened(images),
        opened(other),
        opened(images, backbone=["b", "other weights"]),
        opened(images, mirrored=False),
    ]
    assert len({Path(maps.maps.filename) for maps in made}) == 4


def test_an_interrupted_call_leaves_nothing(images: ImageSet, folder: Path, monkeypatch):
    monkeypatch.setattr(maps_module, "_BATCH", 4)
    calls: list[int] = []

    def stops(batch: Tensor) -> dict[str, Tensor]:
        if sum(calls) > 10:
            raise KeyboardInterrupt
        return counting(calls)(batch)

    with pytest.raises(KeyboardInterrupt):
        opened(images, compute=stops)
    assert [path.suffix for path in folder.iterdir()] in ([], [".lock"])
    assert len(opened(images)) == COUNT


def test_two_at_once_compute_once(images: ImageSet, capfd):
    """Two threads, whose locks keep each other out as those of two processes do."""
    calls: list[int] = []
    slow = threading.Event()

    def waits(batch: Tensor) -> dict[str, Tensor]:
        slow.wait(0.3)  # until the other one has come, too
        return counting(calls)(batch)

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: opened(images, compute=waits), range(2)))
    assert sum(calls) == 2 * COUNT + 1, "one tells the shapes"
    np.testing.assert_array_equal(made[0].maps, made[1].maps)
    assert "another process has it, waiting" in capfd.readouterr().err


# What is wrong


def test_a_full_disk(images: ImageSet, folder: Path, monkeypatch: pytest.MonkeyPatch):
    real_open = open
    with monkeypatch.context() as patch:
        room = {"room": 800}
        patch.setattr(maps_module, "_BATCH", 4)
        patch.setattr(
            images_module,
            "open",
            lambda *arguments: NoSpace(real_open(*arguments), **room),
            raising=False,
        )
        with pytest.raises(InputError) as caught:
            opened(images)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message
    assert "No space left on device" in message and "free some space and start again" in message
    assert not list(folder.glob("train-*"))
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert len(opened(images)) == COUNT, "with space, the same call goes on"


def test_too_little_space_is_known_before(images: ImageSet, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"0\.0 GB free, expected 0\.0 GB; free some space"):
        opened(images)


def test_values_that_half_precision_cannot_hold(images: ImageSet, folder: Path):
    def huge(batch: Tensor) -> dict[str, Tensor]:
        return {name: (maps.float() * 1e6).half() for name, maps in compute(batch).items()}

    with pytest.raises(InputError, match=r"values that half precision cannot hold"):
        opened(images, compute=huge)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: (place / "maps.npy").write_bytes(b""),
        lambda place: (place / "maps.npy").write_bytes((place / "maps.npy").read_bytes()[:-9]),
        lambda place: (place / "meta.json").unlink(),
        lambda place: (place / "meta.json").write_text("[]"),
        lambda place: np.save(place / "maps.npy", np.zeros((3, 2), np.float16)),
    ],
    ids=["empty", "cut off", "no shapes", "other shapes", "another array"],
)
def test_damaged_maps(images: ImageSet, folder: Path, damage: Callable[[Path], object]):
    opened(images)
    (place,) = folder.glob("train-*")
    damage(place)
    with pytest.raises(InputError, match=r"not readable maps .*; delete the folder") as caught:
        opened(images)
    assert str(place) in str(caught.value)


def test_images_in_memory_keep_no_maps(make_images, images: ImageSet):
    assert is_stored(images) and not is_stored(make_images(3))
