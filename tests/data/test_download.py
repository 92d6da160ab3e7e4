"""Fetching and unpacking: a server of its own that breaks off, lies, or is not there."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from full_disk import NoSpace
from miniatures import make_cub
from typer.testing import CliRunner

from cstn_lib.cli import app
from cstn_lib.data import DataConfig, open_split
from cstn_lib.data.photos import download as download_module
from cstn_lib.data.photos.download import ARCHIVES, Archive, download, unpack
from cstn_lib.support.errors import InputError


class Handler(BaseHTTPRequestHandler):
    """Serves `content`; `fault` says how badly."""

    content: ClassVar[bytes] = b""
    fault: ClassVar[str] = ""
    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.asked.append(wanted)
        start = int(re.match(r"bytes=(\d+)-", wanted).group(1)) if wanted else 0
        if self.fault == "error":
            self.send_error(503)
            return
        if self.fault == "no ranges":
            wanted, start = None, 0
        if start >= len(self.content):
            self.send_error(416)
            return
        body = self.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.fault == "breaks off":
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def archive_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    place = tmp_path_factory.mktemp("archive")
    top = make_cub(place, train=2, test=1)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("attributes.txt"))  # as in the original: beside the folder
        archive.add(top, top.name)
    return data.getvalue()


@pytest.fixture
def server(archive_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    """The published archives are then those of a server on this machine."""

    class Here(Handler):
        content = archive_bytes
        asked: ClassVar[list[str | None]] = []

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
    thread.start()
    place = f"http://127.0.0.1:{serving.server_port}/birds"
    md5 = hashlib.md5(archive_bytes).hexdigest()
    whole = Archive(f"{place}/CUB_200_2011.tgz", md5, "CUB_200_2011")
    monkeypatch.setitem(ARCHIVES, "cub", whole)
    monkeypatch.setitem(ARCHIVES, "tiny-imagenet", Archive(f"{place}/tiny.zip", md5))
    yield Here
    serving.shutdown()
    serving.server_close()
    thread.join()


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.count("\n") == 0
    return message


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".cstn-lock")


def test_published_archives():
    assert ARCHIVES["cub"].md5 == "97eceeb196236b17998738112f37df78"
    assert ARCHIVES["cub"].file == "CUB_200_2011.tgz"
    assert ARCHIVES["tiny-imagenet"].file == "tiny-imagenet-200.zip"
    assert all(re.fullmatch("[0-9a-f]{32}", archive.md5) for archive in ARCHIVES.values())


def test_download_unpack_and_open(server, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("cstn_lib.data.project_folder", lambda name: tmp_path / "data")
    place = download("cub", tmp_path / "birds")
    assert place == tmp_path / "birds" / "CUB_200_2011"
    assert names(place.parent) == ["CUB_200_2011", "CUB_200_2011.tgz"]
    assert len(open_split(DataConfig("cub", image_size=32), "test", place)) == 3
    assert download("cub", tmp_path / "birds") == place
    assert server.asked == [None], "the second time nothing is fetched"


def test_the_command_says_what_to_do_next(server, tmp_path: Path):
    result = CliRunner().invoke(app, ["data", "download", "cub", "--root", str(tmp_path)])
    assert result.exit_code == 0, result.output
    place = tmp_path / "CUB_200_2011"
    assert result.stdout.splitlines() == [str(place), f"cstn data check cub --root {place}"]


def test_what_is_read_packed_stays_packed(server, archive_bytes, tmp_path: Path):
    place = download("tiny-imagenet", tmp_path)
    assert place.read_bytes() == archive_bytes
    assert names(tmp_path) == ["tiny.zip"]


def test_an_archive_that_is_there_is_only_unpacked(server, archive_bytes, tmp_path: Path):
    (tmp_path / "CUB_200_2011.tgz").write_bytes(archive_bytes)
    assert download("cub", tmp_path).is_dir()
    assert server.asked == []


def test_a_broken_download_is_continued(server, archive_bytes, tmp_path: Path):
    server.fault = "breaks off"
    half = len(archive_bytes) // 2
    message = refusal(lambda: download("cub", tmp_path))
    assert f"broken off after {half} bytes" in message and "start again to continue" in message
    part = tmp_path / "CUB_200_2011.tgz.part"
    assert part.read_bytes() == archive_bytes[:half]
    server.fault = ""
    assert download("cub", tmp_path).is_dir()
    assert server.asked == [None, f"bytes={half}-"]
    assert not part.exists()


def test_a_server_that_cannot_continue_starts_over(server, archive_bytes, tmp_path: Path):
    server.fault = "no ranges"
    (tmp_path / "CUB_200_2011.tgz.part").write_bytes(b"old" * 9)
    assert download("cub", tmp_path).is_dir()
    assert (tmp_path / "CUB_200_2011.tgz").read_bytes() == archive_bytes


def test_a_download_that_was_complete_but_not_renamed(server, archive_bytes, tmp_path: Path):
    (tmp_path / "CUB_200_2011.tgz.part").write_bytes(archive_bytes)
    assert download("cub", tmp_path).is_dir()


def test_wrong_md5_of_what_came(server, archive_bytes, tmp_path: Path):
    server.content = archive_bytes[:-1] + b"x"
    message = refusal(lambda: download("cub", tmp_path))
    assert "its MD5 is another" in message and "CUB_200_2011.tgz" in message
    assert names(tmp_path) == []


def test_wrong_md5_of_what_is_there(server, tmp_path: Path):
    path = tmp_path / "CUB_200_2011.tgz"
    path.write_bytes(b"something of mine")
    message = refusal(lambda: download("cub", tmp_path))
    assert message.startswith(f"{path}: ") and "move it away" in message
    assert path.read_bytes() == b"something of mine"
    assert server.asked == []


def test_an_answer_that_is_an_error(server, tmp_path: Path):
    server.fault = "error"
    message = refusal(lambda: download("cub", tmp_path))
    assert message.startswith(ARCHIVES["cub"].url) and "503" in message


def test_nobody_answers(server, tmp_path: Path, monkeypatch):
    nowhere = Archive("http://127.0.0.1:9/x.tgz", "0" * 32, "x")
    monkeypatch.setitem(ARCHIVES, "cub", nowhere)
    message = refusal(lambda: download("cub", tmp_path))
    assert message.startswith(nowhere.url) and "refused" in message


def test_full_disk_while_downloading(server, archive_bytes, tmp_path: Path, monkeypatch):
    real_open = open
    monkeypatch.setattr(download_module, "_CHUNK", 1000)
    with monkeypatch.context() as patch:
        patch.setattr(
            download_module,
            "open",
            lambda *arguments: NoSpace(real_open(*arguments), 2500),
            raising=False,
        )
        message = refusal(lambda: download("cub", tmp_path))
    part = tmp_path / "CUB_200_2011.tgz.part"
    assert message.startswith(f"{part}: ") and "free some space and start again" in message
    assert part.read_bytes() == archive_bytes[:2000]
    assert download("cub", tmp_path).is_dir()
    assert server.asked == [None, "bytes=2000-"]


def test_too_little_space_is_known_before(server, tmp_path: Path, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "0.0 GB free" in refusal(lambda: download("cub", tmp_path))


def test_no_rights_to_write(server, tmp_path: Path, monkeypatch):
    """The superuser may write anywhere, so the system's answer is made up."""

    def refuses(path: object, *_: object) -> None:
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr(download_module, "open", refuses, raising=False)
    message = refusal(lambda: download("cub", tmp_path))
    assert "CUB_200_2011.tgz.part: not written (Permission denied)" in message
    assert "choose a folder that you may write to" in message


def test_a_file_in_the_place_of_the_root(server, tmp_path: Path):
    place = tmp_path / "birds"
    place.write_text("a note")
    assert str(place) in refusal(lambda: download("cub", place))
    assert place.read_text() == "a note"


def test_unknown_name(tmp_path: Path):
    assert "'ilsvrc'" in refusal(lambda: download("ilsvrc", tmp_path))


# Archives that are not to be trusted


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


WICKED = {
    "up": member("CUB_200_2011/../../evil.txt"),
    "up from the top": member("../evil.txt"),
    "absolute": member("/tmp/evil.txt"),
    "backslash": member("CUB_200_2011\\..\\evil.txt"),
    "symlink": member("CUB_200_2011/images", tarfile.SYMTYPE, "/tmp"),
    "symlink inside": member("CUB_200_2011/a", tarfile.SYMTYPE, "classes.txt"),
    "hardlink": member("CUB_200_2011/a", tarfile.LNKTYPE, "CUB_200_2011/classes.txt"),
    "device": member("CUB_200_2011/null", tarfile.CHRTYPE),
    "pipe": member("CUB_200_2011/pipe", tarfile.FIFOTYPE),
    "link beside the folder": member("other", tarfile.SYMTYPE, "/etc"),
}


@pytest.mark.parametrize("wicked", WICKED.values(), ids=WICKED)
def test_wicked_members(wicked: tarfile.TarInfo, tmp_path: Path):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = inner / "a.tgz"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(member("CUB_200_2011/classes.txt"))
        archive.addfile(wicked)
    message = refusal(lambda: unpack(path, inner / "CUB_200_2011"))
    assert message.startswith(f"{path}: {wicked.name!r}") and "nothing was unpacked" in message
    assert (names(tmp_path), names(inner)) == (["inner"], ["a.tgz"])


@pytest.mark.parametrize("written", ["./CUB_200_2011/classes.txt", "CUB_200_2011\\classes.txt"])
def test_names_of_members(written: str, tmp_path: Path):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        archive.addfile(member(written))
    unpack(tmp_path / "a.tgz", tmp_path / "CUB_200_2011")
    assert names(tmp_path / "CUB_200_2011") == ["classes.txt"]


def test_damaged_archives(archive_bytes, tmp_path: Path):
    with tarfile.open(tmp_path / "empty.tgz", "w:gz"):
        pass
    cases = {
        "cut.tgz": archive_bytes[: len(archive_bytes) // 2],
        "text.tgz": b"<html>not found</html>",
        "nothing.tgz": b"",
        "empty.tgz": (tmp_path / "empty.tgz").read_bytes(),
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        message = refusal(lambda path=path: unpack(path, tmp_path / "CUB_200_2011"))
        assert message.startswith(f"{path}: ")
        assert path.read_bytes() == content
    assert names(tmp_path) == sorted(cases)
