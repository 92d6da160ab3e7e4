"""The packaging files agree with each other and with the code."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(requirements: list[str]) -> set[str]:
    """The canonical names of PEP 508 requirements."""
    return {canonical(re.match(r"[\w.-]+", r).group()) for r in requirements}


EXTRAS = PROJECT["optional-dependencies"]
RUNTIME = distributions(PROJECT["dependencies"] + EXTRAS["notebooks"] + EXTRAS["reproduce"])
DEVELOPMENT = RUNTIME | distributions(EXTRAS["dev"])
STANDARD = sys.stdlib_module_names | {"tomllib"}  # since Python 3.11


def python_sources(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every Python file under `folder` and each notebook cell, shell and magic lines left out."""
    for path in sorted(folder.rglob("*.py")):
        yield path, path.read_text(encoding="utf-8")
    for path in sorted(folder.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                lines = "".join(cell["source"]).splitlines()
                yield path, "\n".join(line for line in lines if not re.match(r"\s*[%!]", line))


def imported_modules(source: str) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.partition(".")[0])
    return modules


@pytest.mark.parametrize(
    ("folder", "declared"),
    [
        ("cstn_lib", RUNTIME),
        ("notebooks", RUNTIME),
        ("benchmarks", DEVELOPMENT),  # one of them runs the tests
        ("tests", DEVELOPMENT),
    ],
)
def test_imports_are_declared(folder: str, declared: set[str]) -> None:
    own = {"cstn_lib", "conftest", "publish"} | {
        path.stem for path in (ROOT / folder).rglob("*.py")
    }
    providers = packages_distributions()
    undeclared = set()
    for path, source in python_sources(ROOT / folder):
        for module in imported_modules(source) - own - STANDARD:
            if not {canonical(d) for d in providers.get(module, [module])} & declared:
                undeclared.add(f"{path.relative_to(ROOT)}: {module}")
    assert not undeclared


def test_dependencies_have_lower_bounds_and_no_pins() -> None:
    extras = [requirement for name in EXTRAS if name != "dev" for requirement in EXTRAS[name]]
    for requirement in PROJECT["dependencies"] + extras:
        assert re.fullmatch(r"[\w.-]+>=[\d.]+", requirement), requirement


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "cstn_lib").rglob("*.py")}
    assert folders
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_every_data_file_is_packaged() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["cstn_lib"]
    package = ROOT / "cstn_lib"
    files = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    ]
    assert not [file for file in files if not any(fnmatch(file, p) for p in patterns)]


def test_development_has_every_extra() -> None:
    others = ",".join(sorted(set(EXTRAS) - {"dev"}))
    assert EXTRAS["dev"][0] == f"{PROJECT['name']}[{others}]"


@pytest.mark.parametrize("target", PROJECT["scripts"].values())
def test_console_script_exists(target: str) -> None:
    module, _, name = target.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_conda_has_the_same_python_and_nothing_of_its_own() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, *rest = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}"
    assert rest == ["pip", {"pip": ["-e .[dev]"]}]


def test_makefile_looks_for_the_same_pythons() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    low, high = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups())
    assert f"(3, {low}) <= sys.version_info[:2] < (3, {high})" in makefile
    candidates = re.search(r"^CANDIDATES := (.*)$", makefile, re.MULTILINE).group(1).split()
    assert candidates[:-2] == [f"python3.{minor}" for minor in range(high - 1, low - 1, -1)]
    assert f"3.{low} to 3.{high - 1}" in makefile


@pytest.mark.skipif(shutil.which("make") is None, reason="make absent")
def test_make_help_lists_the_targets_and_reproduce_passes_the_profile() -> None:
    def make(*arguments: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        command = ["make", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        ).stdout

    listed = set(re.findall(r"^make (\w+) ", make(), re.MULTILINE))
    assert listed == {"help", "setup", "reproduce", "test", "lab", "lint", "notebooks", "clean"}
    assert ".venv/bin/cstn reproduce --profile quick\n" in make("-n", "reproduce")
    assert ".venv/bin/cstn reproduce --profile quick --jobs 3\n" in make(
        "-n", "reproduce", "JOBS=3"
    )
    assert ".venv/bin/cstn reproduce --profile smoke\n" in make("-n", "reproduce", "PROFILE=smoke")


def test_make_lab_opens_the_first_notebook_in_the_repository() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    options = dict(re.findall(r"--(\S+)=(\S+)", makefile[makefile.index("\nlab:") :]))
    assert options["ServerApp.root_dir"] == "."
    first = options["LabApp.default_url"].removeprefix("/lab/tree/")
    assert (ROOT / first).is_file()
    # without it, sliders of a saved notebook are an error message when it is opened again
    settings = ROOT / options["LabApp.app_settings_dir"] / "overrides.json"
    widgets = json.loads(settings.read_text(encoding="utf-8"))
    assert widgets["@jupyter-widgets/jupyterlab-manager:plugin"] == {"saveState": True}


def test_ci_ends_in_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    last = script.read_text(encoding="utf-8").splitlines()[-1]
    assert last == "make test"
    commands = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^\s*{last}\b", commands, re.MULTILINE)


def test_citation_names_the_paper_and_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert {"message", "title", "authors"} <= citation.keys()
    paper = citation["preferred-citation"]
    assert paper["title"] == "Convolutional STN for Weakly Supervised Object Localization"
    families = [author["family-names"] for author in paper["authors"]]
    assert families == ["Meethal", "Pedersoli", "Belharbi", "Granger"]
