"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import torch
from full_disk import room_for
from safetensors.torch import save

from cstn_lib.support.atomic import atomic_directory, atomic_file
from cstn_lib.support.errors import InputError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_file_appears_when_the_block_ends(tmp_path: Path):
    target = tmp_path / "new" / "folder" / "result.csv"
    with atomic_file(target) as temporary:
        temporary.write_text("all of it")
        assert not target.exists()
        assert temporary.parent == target.parent, "a rename must not cross file systems"
        assert temporary.suffix == ".csv", "writers choose a format by the suffix"
    assert target.read_text() == "all of it"
    assert os.listdir(target.parent) == ["result.csv"]


def test_file_replaces_the_previous_one(tmp_path: Path):
    target = tmp_path / "result.txt"
    target.write_text("old")
    with atomic_file(str(target)) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_file_survives_a_failure(tmp_path: Path, error: type[BaseException]):
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(error), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.txt"]


FRAME = pd.DataFrame({"x": np.random.default_rng(0).random(5000)})
WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("word " * 5000),
    "csv": FRAME.to_csv,
    "parquet": FRAME.to_parquet,
    "safetensors": lambda path: path.write_bytes(save({"x": torch.rand(5000)})),
    "png": lambda path: matplotlib.figure.Figure(figsize=(9, 9)).savefig(path, dpi=300),
    "npy": lambda path: np.save(path, np.zeros(5000)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path, kind: str):
    target = tmp_path / f"result.{kind}"
    target.write_text("old")
    with room_for(4096), pytest.raises(InputError) as caught, atomic_file(target) as temporary:
        WRITERS[kind](temporary)
    message = str(caught.value)
    assert message.startswith(f"{target}: not written (") and "\n" not in message
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == [target.name]


def test_file_is_as_readable_as_any_other(tmp_path: Path):
    umask = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "result.txt") as temporary:
            temporary.write_text("x")
        assert os.umask(0o027) == 0o027, "the process keeps its umask"
    finally:
        os.umask(umask)
    assert mode(tmp_path / "result.txt") == 0o640


def test_folder_appears_when_the_block_ends(tmp_path: Path):
    target = tmp_path / "deep" / "split"
    with atomic_directory(target) as temporary:
        (temporary / "images.npy").write_text("x")
        assert not target.exists()
        assert temporary.parent == target.parent
    assert os.listdir(target) == ["images.npy"]
    assert os.listdir(target.parent) == ["split"]
    assert mode(target) & 0o555 == 0o555


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_folder_leaves_nothing_after_a_failure(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), atomic_directory(tmp_path / "split") as temporary:
        (temporary / "images.npy").write_text("half")
        raise error
    assert os.listdir(tmp_path) == []


def test_folder_of_another_process_is_kept(tmp_path: Path):
    target = tmp_path / "split"
    with atomic_directory(target) as temporary:
        (temporary / "a").write_text("mine")
        target.mkdir()
        (target / "a").write_text("theirs")
    assert (target / "a").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["split"]


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path):
    target = tmp_path / "split"
    target.write_text("a file")
    with pytest.raises(InputError) as caught, atomic_directory(target) as temporary:
        (temporary / "a").write_text("x")
    assert str(caught.value).startswith(f"{target}: not written (")
    assert target.read_text() == "a file"
    assert os.listdir(tmp_path) == ["split"]
