"""Where the repository's folders are, whatever folder a notebook or a command runs in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["figures_folder", "project_folder"]


def project_folder(name: str, chosen: str | Path | None = None) -> Path:
    """The folder `name` of the repository, or the one the user chose instead.

    A package installed without its repository works in the current folder.
    """
    if chosen:
        return Path(chosen).expanduser()
    repository = Path(__file__).resolve().parents[2]
    root = repository if (repository / "pyproject.toml").is_file() else Path.cwd()
    return root / name


def figures_folder(
    profile: str, dataset: str, own: Sequence[str], chosen: str | Path | None = None
) -> Path:
    """Where a table or figure is written: ``figures/<profile>``, or the folder the user chose.

    Made from another data set than its own, it goes to ``figures/<profile>/<dataset>``, beside the
    one that the paper's is compared with.

    Args:
        dataset: with commas where there are several; ``""`` means its own.
        own: the data sets that it is about.
    """
    if chosen or dataset in ("", ",".join(own)):
        return project_folder(f"figures/{profile}", chosen)
    return project_folder(f"figures/{profile}") / dataset.replace(",", "+")
