"""`cstn data check`: what it prints, and its exit status."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from miniatures import make_cub, make_folder, make_ilsvrc
from typer.testing import CliRunner, Result

from cstn_lib.cli import app
from cstn_lib.data.photos.check import check
from cstn_lib.data.photos.folder import Folder
from cstn_lib.support.errors import InputError


def cstn(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def row(result: Result, first: str) -> list[str]:
    (found,) = (line for line in result.stdout.splitlines() if line.startswith(first))
    return found.removeprefix(first).split()


@pytest.mark.parametrize("deep", [(), ("--deep",)])
@pytest.mark.parametrize(
    ("name", "make", "counts"),
    [
        ("cub", make_cub, {"train": "33 3 33", "val": "3 3 3", "test": "12 3 12"}),
        ("ilsvrc", make_ilsvrc, {"train": "33 3 0", "test": "12 3 18"}),
        ("folder", make_folder, {"train": "12 3 0", "val": "12 3 18", "test": "12 3 18"}),
    ],
)
def test_whole_data_sets(name, make, counts, deep, tmp_path: Path):
    root = make(tmp_path)
    result = cstn("check", name, "--root", root, *deep)
    assert result.exit_code == 0, result.output
    for split, expected in counts.items():
        assert row(result, split) == expected.split()
    assert "0 faults" in result.stdout


def test_tiny_imagenet(tiny_imagenet_zip: Path):
    result = cstn("check", "tiny-imagenet", "--root", tiny_imagenet_zip, "--deep")
    assert result.exit_code == 0
    assert [row(result, split)[0] for split in ("train", "val", "test")] == ["27", "3", "3"]
    assert row(result, "photo in two splits")[0] == "6", "all of them are the same grey"


def test_every_fault_is_counted(tmp_path: Path):
    root = make_cub(tmp_path)
    photos = sorted((root / "images").rglob("*.jpg"))
    photos[0].unlink()
    photos[1].write_bytes(b"")
    photos[2].write_bytes(photos[2].read_bytes()[:900])
    boxes = (root / "bounding_boxes.txt").read_text().splitlines()
    boxes[5] = "6 -3.0 -3.0 20.0 20.0"
    boxes[6] = "7 1.0 1.0 0.0 9.0"
    (root / "bounding_boxes.txt").write_text("\n".join(boxes))

    shallow, deep = (
        cstn("check", "cub", "--root", root),
        cstn("check", "cub", "--root", root, "--deep"),
    )
    assert shallow.exit_code == deep.exit_code == 1
    expected = {
        "missing image": "1",
        "unreadable image": "1",
        "box partly outside, clipped": "1",
        "box without area": "1",
    }
    for kind, count in expected.items():
        assert row(shallow, kind)[0] == row(deep, kind)[0] == count
    assert "truncated" not in shallow.stdout
    assert row(deep, "truncated image")[:2] == ["1", f"{photos[2]}:"]
    assert "4 faults, " in deep.stdout and "3 faults, " in shallow.stdout


def test_photos_that_two_splits_share(tmp_path: Path):
    root = make_folder(tmp_path)
    shutil.copy(root / "train/ant/train-ant-0.jpg", root / "test/ant/test-ant-0.jpg")
    assert check(Folder, root).ok
    report = check(Folder, root, deep=True)
    assert not report.ok
    assert report.findings.first["photo in two splits"] == (
        f"{root}/test/ant/test-ant-0.jpg: in test, and as {root}/train/ant/train-ant-0.jpg in train"
    )


def test_a_part_that_is_missing_is_a_fault(tmp_path: Path):
    root = make_ilsvrc(tmp_path)
    shutil.rmtree(root / "ILSVRC/Annotations/CLS-LOC/val")
    result = cstn("check", "ilsvrc", "--root", root)
    assert result.exit_code == 1
    assert row(result, "split not readable")[1] == f"{root}/Annotations/val:"
    assert row(result, "train")[0] == "33"


@pytest.mark.parametrize("name", ["birds-cub", "none"])
def test_names_that_cannot_be_checked(name, tmp_path: Path):
    result = cstn("check", name, "--root", tmp_path)
    assert isinstance(result.exception, InputError)
    assert "expected one of cub, folder, ilsvrc" in str(result.exception)


def test_usage(tmp_path: Path):
    assert cstn("check", "cub").exit_code == 2
    assert isinstance(cstn("check", "cub", "--root", tmp_path).exception, InputError)
