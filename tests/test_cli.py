"""The command: what it writes, and that a mistake ends in one line and exit status 2."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from full_disk import room_for
from miniatures import make_folder

from cstn_lib import cli
from cstn_lib.evaluation.indicators import indicators
from cstn_lib.evaluation.metrics import choose_threshold, evaluate
from cstn_lib.evaluation.predictions import load_table
from cstn_lib.evaluation.score_maps import CAM_THRESHOLD
from cstn_lib.reproduction.batch import reproduce
from cstn_lib.reproduction.experiments import EQUATION_4, PLAIN_EQUATION_4
from cstn_lib.support.errors import InputError
from cstn_lib.support.project import project_folder

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Result(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def cstn(data_folder: Path, monkeypatch, capsys) -> Command:
    """`cstn ARGUMENTS` in this process."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["cstn", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
            raise SystemExit(0)
        return Result(caught.value.code or 0, *capsys.readouterr())

    return run


def tree(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}


def assert_refused(result: Result, *parts: object) -> None:
    """Exit status 2 and one line that names the culprit."""
    lines = result.err.splitlines()
    assert result.status == 2
    assert len(lines) == 1, result.err
    assert lines[0].startswith("cstn: ")
    assert result.out == ""
    for part in parts:
        assert str(part) in lines[0]


SMOKE = ("--profile", "smoke", "--device", "cpu")


@pytest.fixture(scope="module")
def trained(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with ``cstn`` on both data sets, made by the command; to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    for dataset in ("birds-cub", "birds-ilsvrc"):
        arguments = ["train", "cstn", *SMOKE, "--dataset", dataset, "--runs-dir", str(folder)]
        cli.app(arguments, standalone_mode=False)
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def run_folder(runs: Path) -> Path:
    return next((runs / "birds-cub").iterdir())


# What it writes


def test_train(cstn: Command, tmp_path: Path):
    result = cstn("train", "cstn", *SMOKE, "--seed", 3, "--runs-dir", tmp_path / "runs")
    assert result.status == 0
    folder = Path(result.out.splitlines()[0])
    assert {path.name.split("-")[1] for path in folder.glob("predictions-*")} == {"val", "test"}
    assert folder.parent == tmp_path / "runs" / "birds-cub"
    assert folder.name.startswith("cstn-seed3-")
    assert (folder / "run.json").is_file()
    assert "val_gt_known_loc" in result.out


def test_train_again_trains_nothing(cstn: Command, runs: Path):
    before = tree(runs)
    result = cstn("train", "cstn", *SMOKE, "--runs-dir", runs)
    assert result.status == 0
    assert tree(runs) == before


def test_train_on_tiny_imagenet(cstn: Command, tmp_path: Path, tiny_imagenet_zip: Path):
    result = cstn(
        *("train", "cstn", *SMOKE, "--dataset", "tiny-imagenet"),
        *("--data-root", tiny_imagenet_zip, "--runs-dir", tmp_path),
    )
    assert result.status == 0, result.err
    assert Path(result.out.splitlines()[0]).parent == tmp_path / "tiny-imagenet"


@pytest.mark.parametrize("split", ["val", "test"])
def test_predict(cstn: Command, runs: Path, split):
    result = cstn("predict", "cstn", *SMOKE, "--runs-dir", runs, "--split", split)
    assert result.status == 0
    *lines, path = result.out.splitlines()
    assert Path(path).parent == run_folder(runs)
    table = load_table(Path(path))
    assert len(table) == {"val": 24, "test": 48}[split]
    for line, transform in zip(lines[:2], (False, True), strict=True):
        assert line.split()[:2] == ["transformed" if transform else "default", "box"]
        for name, value in evaluate(table, transform=transform).items():
            assert f"{name} {100 * value:.2f}" in line
    told = {name.strip(): value for name, value in (line.rsplit(maxsplit=1) for line in lines[2:])}
    assert told == {name: f"{value:.2f}" for name, value in indicators(table).items()}


def test_predict_other_classes(cstn: Command, runs: Path):
    result = cstn("predict", "cstn", *SMOKE, "--runs-dir", runs, "--split", "pretrain")
    assert result.status == 2
    assert "split 'pretrain': " in result.err and "classes, expected the " in result.err
    assert result.err.count("\n") == 1


def test_predict_score_maps(cstn: Command, tmp_path: Path):
    """At the customary threshold and at the one chosen on val, whichever split is asked for."""
    assert cstn("train", "cam", *SMOKE, "--runs-dir", tmp_path).status == 0
    paths = {}
    for split in ("val", "test"):
        *lines, path = cstn(
            "predict", "cam", *SMOKE, "--runs-dir", tmp_path, "--split", split
        ).out.splitlines()
        paths[split] = Path(path)
        table = load_table(paths[split])
        chosen = choose_threshold(load_table(paths["val"]))
        assert chosen != CAM_THRESHOLD
        for line, threshold in zip(lines, (CAM_THRESHOLD, chosen), strict=True):
            assert line.split()[:3] == ["threshold", f"{100 * threshold:.0f}", "%"]
            for name, value in evaluate(table, threshold=threshold).items():
                assert f"{name} {100 * value:.2f}" in line


def test_report(cstn: Command, runs: Path, tmp_path: Path):
    figures = tmp_path / "figures"
    result = cstn("report", *SMOKE, "--runs-dir", runs, "--figures-dir", figures)
    assert result.status == 0
    table = pd.read_csv(figures / "table_1.csv", index_col="data set")
    lines = {line[:36].strip(): line.split() for line in result.out.splitlines()}
    for column in ("Top-1 Loc with transform", "Top-1 Class", "paper: Top-1 Loc with transform"):
        printed = next(words for name, words in lines.items() if name.startswith(column))
        assert [float(word) for word in printed[-2:]] == table[column].tolist()
    assert table.index.tolist() == ["birds-cub", "birds-ilsvrc"]


def test_report_says_what_is_missing(cstn: Command, runs: Path, tmp_path: Path):
    """One line for each result that is not there, and the others are written."""
    for name in ("plain", EQUATION_4, PLAIN_EQUATION_4):
        assert cstn("train", name, *SMOKE, "--runs-dir", runs).status == 0
    figures = tmp_path / "figures"
    result = cstn("report", *SMOKE, "--runs-dir", runs, "--figures-dir", figures)
    assert result.status == 0
    written = [f"table_{n}.{kind}" for n in (1, 2) for kind in ("csv", "md")]
    written += [f"figure_8.{kind}" for kind in ("csv", "png", "svg")]
    written += [f"claims.{kind}" for kind in ("csv", "md", "png", "svg")]
    assert sorted(path.name for path in figures.iterdir()) == sorted(written)
    missing = [line for line in result.out.splitlines() if line.startswith("not written: ")]
    assert len(missing) == 4
    for line, name in zip(missing, ("table-3", "table-4", "table-5", "figure-6"), strict=True):
        assert name in line
    assert "9 of 10 runs (cstn-lambda-0, " in missing[0]
    names = "cam, has, acol, spg, adl, cstn-self-trained, cstn-trained-longer, stn, deform"
    assert f"9 of 11 runs ({names})" in missing[1]


def test_a_small_report_leaves_the_projects_pages_alone(cstn: Command, runs: Path, tmp_path: Path):
    pages = [project_folder(name) for name in ("README.md", "REPRODUCTION.md")]
    before = [page.read_bytes() for page in pages if page.is_file()]
    options = ("--runs-dir", runs, "--figures-dir", tmp_path / "figures")
    assert cstn("report", *SMOKE, *options).status == 0
    assert [page.read_bytes() for page in pages if page.is_file()] == before


def test_report_of_two_seeds_of_which_one_is_there(cstn: Command, runs: Path, tmp_path: Path):
    options = ("--runs-dir", runs, "--figures-dir", tmp_path / "figures", "--seeds", 2)
    assert_refused(cstn("report", *SMOKE, *options), runs, "2 of 4 runs (cstn)")
    assert not (tmp_path / "figures").exists()


def test_report_on_two_data_sets_leaves_out_tables_of_one(
    cstn: Command, runs: Path, tmp_path: Path
):
    both = ("--dataset", "birds-ilsvrc,birds-cub", "--figures-dir", tmp_path / "figures")
    result = cstn("report", *SMOKE, "--runs-dir", runs, *both)
    assert result.status == 0
    assert result.out.count("is about one data set, not birds-ilsvrc,birds-cub") == 6
    table = pd.read_csv(tmp_path / "figures" / "table_1.csv", index_col="data set")
    assert table.index.tolist() == ["birds-ilsvrc", "birds-cub"]


def test_pretrain_and_data_make_are_there(cstn: Command):
    for arguments in (["pretrain"], ["data", "make"]):
        result = cstn(*arguments, "--help")
        assert result.status == 0
        assert "Usage" in result.out


def test_data_make(cstn: Command, data_folder: Path):
    result = cstn("data", "make", "birds-cub", "--profile", "smoke")
    assert result.status == 0
    assert "birds-cub train: 48 images of 24 classes" in result.out


def test_help_of_the_module_imports_nothing_of_the_notebooks():
    """Training works where papermill is not installed, and the command starts without plotting."""
    command = [sys.executable, "-X", "importtime", "-m", "cstn_lib", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in ("train", "predict", "report", "reproduce", "pretrain", "data"):
        assert name in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"torch", "cstn_lib.cli"} <= imported
    assert not {"papermill", "nbclient", "IPython", "matplotlib", "pandas", "scipy"} & imported


# Mistakes


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path):
    command = [sys.executable, "-m", "cstn_lib", "train", "none", "--runs-dir", str(tmp_path / "r")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert_refused(Result(done.returncode, done.stdout, done.stderr), "experiment 'none'", "cstn")
    assert list(tmp_path.iterdir()) == []


UNKNOWN = {
    "experiment": ("train", "none"),
    "dataset": ("train", "cstn", "--dataset", "none"),
    "profile": ("train", "cstn", "--profile", "none"),
    "device": ("train", "cstn", "--device", "none"),
    "split": ("predict", "cstn", *SMOKE, "--split", "none"),
    "table": ("reproduce", "--profile", "smoke", "--only", "none"),
    "dataset of reproduce": ("reproduce", "--profile", "smoke", "--dataset", "none"),
    "dataset of reproduce, the second": (
        "reproduce",
        "--profile",
        "smoke",
        "--dataset",
        "birds-cub,none",
    ),
    "profile of reproduce": ("reproduce", "--profile", "none"),
    "device of reproduce": ("reproduce", "--profile", "smoke", "--device", "none"),
    "dataset of report": ("report", *SMOKE, "--dataset", "birds-cub,none"),
    "profile of report": ("report", "--profile", "none"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_unknown_names(cstn: Command, runs: Path, what):
    before = tree(runs)
    assert_refused(cstn(*UNKNOWN[what], "--runs-dir", runs), what.split()[0], "'none'")
    assert tree(runs) == before


@pytest.mark.parametrize("arguments", [("none",), ("birds-cub", "--profile", "none")])
def test_unknown_names_of_data_make(cstn: Command, arguments):
    assert_refused(cstn("data", "make", *arguments), "'none'")


@pytest.mark.parametrize("arguments", [("--size", "3"), ("--seed", "many"), ("a", "b")])
def test_unknown_options(cstn: Command, runs: Path, arguments):
    """The usage error of the command line's own library."""
    before = tree(runs)
    result = cstn("train", "cstn", *arguments, "--runs-dir", runs)
    assert result.status == 2
    assert result.err and "Traceback" not in result.err
    assert tree(runs) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "cstn", *SMOKE, "--seed=-1"),
        ("predict", "cstn", *SMOKE, "--seed=-1"),
        ("report", *SMOKE, "--seeds=-1"),
        ("reproduce", "--profile", "smoke", "--seeds=-1"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_negative_seeds(cstn: Command, runs: Path, arguments):
    before = tree(runs)
    result = cstn(*arguments, "--runs-dir", runs)
    assert result.status == 2
    assert "-1" in result.err or "'--seeds'" in result.err
    assert "Traceback" not in result.err
    assert tree(runs) == before


@pytest.mark.parametrize("command", ["predict", "report"])
def test_before_training(cstn: Command, data_folder: Path, tmp_path: Path, command):
    name = ["cstn"] if command == "predict" else []
    result = cstn(command, *name, *SMOKE, "--runs-dir", tmp_path / "runs")
    result = result._replace(err=result.err.splitlines()[-1])  # what is drawn first is told, too
    assert_refused(result, tmp_path / "runs", "not trained", "cstn train")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "reproduce"])
def test_absent_cuda(cstn: Command, tmp_path: Path, monkeypatch, command):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    name = ["cstn"] if command == "train" else []
    result = cstn(command, *name, "--device", "cuda", "--runs-dir", tmp_path / "runs")
    assert_refused(result, "device 'cuda'")
    assert list(tmp_path.iterdir()) == []


def assert_root_refused(cstn: Command, tmp_path: Path, arguments: tuple, root: Path) -> None:
    before = tree(tmp_path)
    tiny = ("--dataset", "tiny-imagenet", "--data-root", root)
    assert_refused(cstn(*arguments, *tiny, "--runs-dir", tmp_path / "runs"), root)
    assert tree(tmp_path) == before


TRAIN, REPORT = ("train", "cstn", *SMOKE), ("report", *SMOKE)
train_or_report = pytest.mark.parametrize("arguments", [TRAIN, REPORT], ids=["train", "report"])


@pytest.mark.parametrize(
    "arguments", [TRAIN, REPORT, ("reproduce", *SMOKE)], ids=lambda arguments: arguments[0]
)
def test_absent_data_root(cstn: Command, tmp_path: Path, arguments):
    assert_root_refused(cstn, tmp_path, arguments, tmp_path / "absent")


@train_or_report
def test_data_root_that_is_another_zip(cstn: Command, tmp_path: Path, arguments):
    root = tmp_path / "letters.zip"
    with zipfile.ZipFile(root, "w") as archive:
        archive.writestr("letter.txt", "Dear reader")
    assert_root_refused(cstn, tmp_path, arguments, root)


@train_or_report
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_zip(cstn: Command, tmp_path: Path, arguments, tiny_imagenet_zip: Path, share):
    raw = tiny_imagenet_zip.read_bytes()
    root = tmp_path / "cut.zip"
    root.write_bytes(raw[: int(share * len(raw))])
    assert_root_refused(cstn, tmp_path, arguments, root)


@train_or_report
def test_empty_data_root(cstn: Command, tmp_path: Path, arguments):
    root = tmp_path / "empty"
    root.mkdir()
    assert_root_refused(cstn, tmp_path, arguments, root)


def test_tiny_imagenet_without_a_root(cstn: Command, tmp_path: Path):
    result = cstn("train", "cstn", *SMOKE, "--dataset", "tiny-imagenet", "--runs-dir", tmp_path)
    assert_refused(result, "tiny-imagenet", "data_root")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_runs(cstn: Command, tmp_path: Path):
    place = tmp_path / "runs"
    place.write_text("a note", encoding="utf-8")
    for arguments in (("train", "cstn", *SMOKE), ("reproduce", "--profile", "smoke")):
        assert_refused(cstn(*arguments, "--runs-dir", place), place)
        assert place.read_text(encoding="utf-8") == "a note"
    assert list(tmp_path.iterdir()) == [place]


def test_a_file_in_the_place_of_the_figures(cstn: Command, runs: Path, tmp_path: Path):
    report = ("report", *SMOKE, "--runs-dir", runs, "--figures-dir")
    assert cstn(*report, tmp_path / "good").status == 0  # leaves predictions: no progress bar
    place = tmp_path / "figures"
    place.write_text("a note", encoding="utf-8")
    assert_refused(cstn(*report, place), place)
    assert place.read_text(encoding="utf-8") == "a note"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write it")
def test_runs_that_may_not_be_written(cstn: Command, tmp_path: Path):
    (tmp_path / "runs").mkdir(mode=0o500)
    assert_refused(cstn("train", "cstn", *SMOKE, "--runs-dir", tmp_path / "runs"), tmp_path)


def test_a_disk_that_is_full_after_the_first_epoch(cstn: Command, trained: Path, tmp_path: Path):
    with room_for(100_000):
        result = cstn("train", "cstn", *SMOKE, "--runs-dir", tmp_path)
    last = result.err.splitlines()[-1]  # below the progress bar
    assert result.status == 2 and last.startswith(f"cstn: {tmp_path}"), result.err
    assert "checkpoint.safetensors: not written" in last
    assert {path.name for path in run_folder(tmp_path).iterdir()} <= {"config.json", "lock"}


@pytest.mark.parametrize("content", [b"", b"not a network"])
def test_damaged_network(cstn: Command, runs: Path, content):
    path = run_folder(runs) / "model.safetensors"
    path.write_bytes(content)
    for table in path.parent.glob("predictions-*"):  # or nobody asks for the network
        table.unlink()
    assert_refused(cstn("predict", "cstn", *SMOKE, "--runs-dir", runs), path)
    assert path.read_bytes() == content


def test_damaged_checkpoint(cstn: Command, runs: Path):
    folder = run_folder(runs)
    (folder / "run.json").unlink()
    path = folder / "checkpoint.safetensors"
    path.write_bytes(b"half")
    assert_refused(cstn("train", "cstn", *SMOKE, "--runs-dir", runs), path)
    assert path.read_bytes() == b"half"


def test_damaged_predictions(cstn: Command, runs: Path):
    result = cstn("predict", "cstn", *SMOKE, "--runs-dir", runs)
    path = Path(result.out.splitlines()[-1])
    path.write_bytes(b"PAR1")
    assert_refused(cstn("predict", "cstn", *SMOKE, "--runs-dir", runs), path)


@pytest.mark.parametrize("message", ["", "first\nsecond"])
def test_an_error_of_any_text_is_one_line(cstn: Command, monkeypatch, message):
    def fail(*_: object, **__: object) -> None:
        raise OSError(message) if not message else InputError(message)

    monkeypatch.setattr("cstn_lib.reproduction.experiments.make_experiment", fail)
    assert_refused(cstn("train", "cstn"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_console_that_cannot_show_a_name(tmp_path: Path, encoding):
    """What is shown escaped is no fault of the data."""
    root = make_folder(tmp_path)
    for split in ("train", "val", "test"):
        (root / split / "cat").rename(root / split / "кот")
    table = (root / "boxes.csv").read_text().replace("/cat/", "/кот/")
    (root / "boxes.csv").write_text(table, encoding="utf-8")
    (root / "train/кот/.DS_Store").write_bytes(b"")
    command = [sys.executable, "-m", "cstn_lib", "data", "check", "folder", "--root", str(root)]
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert ascii("train/кот/.DS_Store")[1:-1] in done.stdout.decode("ascii")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all paths are text")
@pytest.mark.parametrize("option", ["--data-root", "--runs-dir", "--figures-dir"])
def test_paths_that_are_no_utf_8(cstn: Command, tmp_path: Path, option):
    place = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9")
    result = cstn("reproduce", *SMOKE, option, place)
    assert_refused(result, f"{tmp_path}/\\udce9: no UTF-8, expected a path that is")
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_of_ours_keeps_its_traceback(data_folder: Path, monkeypatch):
    """An exception that is nobody's input must not be dressed up as one."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("cstn_lib.reproduction.experiments.make_experiment", fail)
    monkeypatch.setattr(sys, "argv", ["cstn", "train", "cstn"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_notebooks_are_checked_before_the_first_one_runs(tmp_path: Path):
    with pytest.raises(InputError, match="table, figure or notebook 'none'"):
        reproduce(["table-1", "none"], {"profile": "smoke", "runs_dir": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


# Ctrl-C


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        (("data", "make", "birds-cub", "--profile", "smoke"), "data.open_split"),
        (("data", "check", "folder", "--root", "."), "data.photos.check.check"),
        (("data", "download", "cub", "--root", "."), "data.photos.download.download"),
        (("reproduce", "--profile", "smoke"), "reproduction.batch.reproduce"),
        (("predict", "cstn", "--profile", "smoke"), "reproduction.runs.RunStore.open"),
        (("bench",), "reproduction.bench.run_benchmarks"),
    ],
)
def test_ctrl_c_ends_any_command_in_one_line(cstn: Command, monkeypatch, arguments, called):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"cstn_lib.{called}", interrupt)
    result = cstn(*arguments)
    assert result.status == 130
    assert result.err.splitlines() == [
        "cstn: stopped; what is finished is kept, start again to go on"
    ]


def test_ctrl_c_in_a_training(tmp_path: Path):
    """A real one: the line says what is kept, and the same command goes on from there."""
    command = [sys.executable, "-m", "cstn_lib", "train", "cam", "--device", "cpu"]
    command += ["--profile", "smoke", "--runs-dir", str(tmp_path)]
    # a suite that runs in the background was started without Ctrl-C
    slow = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    slow += "import time, cstn_lib.training.engine as e; s = e._save_checkpoint\n"
    slow += "e._save_checkpoint = lambda *a: (s(*a), time.sleep(60))\n"
    slow += "import runpy; runpy.run_module('cstn_lib', run_name='__main__', alter_sys=True)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *command[3:]],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not (kept := list(tmp_path.glob("*/*/checkpoint.safetensors"))):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    last = err.splitlines()[-1]
    assert last.startswith("cstn: cam on birds-cub, seed 0, epoch 1: stopped; ")
    assert f"kept in {kept[0]}, and the same call goes on from there" in last
    assert "Traceback" not in err
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (kept[0].parent / "run.json").is_file()
