"""Which names in a data set count, and which are left there by systems and programs."""

from __future__ import annotations

from pathlib import PurePosixPath

__all__ = ["PHOTO_SUFFIXES", "inner_path", "is_leftover", "is_photo", "is_safe"]

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif"),
    *(".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
)
"""Of the files that are photos; small or capital letters."""

# made by Synology, QNAP, macOS, Windows, Python and Linux without their users' knowledge, as are
# all names that begin with a dot
_LEFTOVERS = {
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
    *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("$recycle.bin", "system volume information", "__pycache__", "lost+found"),
}


def is_photo(name: str) -> bool:
    """Whether a file is one of the photos, by its name."""
    return name.lower().endswith(PHOTO_SUFFIXES)


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden or made by a machine, and so no part of a data set."""
    return name.startswith(".") or name.lower() in _LEFTOVERS


def inner_path(name: str) -> str:
    """The name of an archive's member, or of a photo in a table, with slashes and no ``./``.

    Some programs write backslashes, others begin with a dot. Whether it stays below its folder is
    for `is_safe` to say.
    """
    return str(PurePosixPath(name.replace("\\", "/")))


def is_safe(file: str) -> bool:
    """Whether a relative path stays below the folder it is relative to, on any system."""
    return (
        not any(sign in file for sign in "\\:\0")
        and not file.startswith("/")
        and ".." not in file.split("/")
        and file != ""
    )
