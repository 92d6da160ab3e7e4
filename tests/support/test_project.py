"""Paths as users and papermill give them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cstn_lib.support.errors import InputError
from cstn_lib.support.project import figures_folder, project_folder, user_path


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (2012, "2012"),
        (0, "0"),
        (1.5, "1.5"),
        (True, "True"),
        (False, "False"),
        ("run{1}", "run{1}"),
        ("\N{CAT FACE}", "\N{CAT FACE}"),
        (Path("a/b"), "a/b"),
    ],
)
def test_what_was_given_is_a_path(given, path):
    """papermill makes numbers and booleans of texts that look like them."""
    assert user_path(given) == project_folder("runs", given) == Path(path)
    assert figures_folder("smoke", "cub", ["birds-cub"], given) == Path(path)


@pytest.mark.parametrize("given", ["", None])
def test_nothing_was_given(given):
    assert user_path(given) is None
    assert project_folder("runs", given) == project_folder("runs")
    assert figures_folder("cpu", given, ["cub"], given) == project_folder("figures/cpu")


def test_home_and_bytes_that_are_no_text(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert user_path("~/photos") == Path("/home/someone/photos")
    with pytest.raises(InputError, match=r"^/a/\\udce9: no UTF-8") as caught:
        user_path(os.fsdecode(b"/a/\xe9"))
    str(caught.value).encode()
