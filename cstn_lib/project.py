"""Where the repository's folders are, whatever folder a notebook or a command runs in."""

from __future__ import annotations

from pathlib import Path

__all__ = ["project_folder"]


def project_folder(name: str, chosen: str | Path | None = None) -> Path:
    """The folder `name` of the repository, or the one the user chose instead.

    A package installed without its repository works in the current folder.
    """
    if chosen:
        return Path(chosen).expanduser()
    repository = Path(__file__).resolve().parents[1]
    root = repository if (repository / "pyproject.toml").is_file() else Path.cwd()
    return root / name
