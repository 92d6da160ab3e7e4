"""Where the repository's folders are, whatever folder a notebook or a command runs in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cstn_lib.support.errors import InputError, is_unicode


def user_path(given: object) -> Path | None:
    """The path that a user gave; None where that is empty.

    papermill takes what looks like a number or a word of Python for one: ``-p runs_dir 2012`` gives
    an integer, ``-p runs_dir None`` None.

    Raises:
        InputError: it is no UTF-8, which a notebook could not keep.
    """
    if given is None or given == "":
        return None
    path = Path(str(given)).expanduser()
    if not is_unicode(str(path)):
        raise InputError(f"{path}: no UTF-8, expected a path that is; rename it")
    return path


def project_folder(name: str, chosen: object = None) -> Path:
    """The folder `name` of the repository, or the one the user chose instead (`user_path`).

    A package installed without its repository works in the current folder.
    """
    if (path := user_path(chosen)) is not None:
        return path
    repository = Path(__file__).resolve().parents[2]
    root = repository if (repository / "pyproject.toml").is_file() else Path.cwd()
    return root / name


def figures_folder(profile: str, dataset: str, own: Sequence[str], chosen: object = None) -> Path:
    """Where a table or figure is written: ``figures/<profile>``, or the folder the user chose.

    What is made from another data set than its own goes to ``figures/<profile>/<dataset>``.

    Args:
        dataset: with commas where there are several; ``""`` means its own.
        own: the data sets that it is about.
        chosen: of `user_path`.
    """
    if user_path(chosen) is not None or not dataset or dataset == ",".join(own):
        return project_folder(f"figures/{profile}", chosen)
    return project_folder(f"figures/{profile}") / dataset.replace(",", "+")
