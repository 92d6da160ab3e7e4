"""The rooms of the library: what each may import, so that the arrows between them run one way."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cstn_lib

PACKAGE = Path(cstn_lib.__file__).parent

METHOD = {"geometry", "samplers", "cstn", "joint", "losses", "config", "outputs", "backbones"}
NETWORKS = {"pyramid", "baselines", "models"}
MAY_IMPORT = {
    "support": set(),
    # the method
    "geometry": {"support"},
    "samplers": {"geometry", "support"},
    "cstn": {"geometry", "samplers", "support"},
    "joint": {"support"},
    "losses": {"geometry", "joint"},
    "config": {"geometry", "support"},
    "pretrained": {"support"},
    "outputs": {"config", "joint"},
    "backbones": {"config", "pretrained", "support"},
    "pyramid": METHOD | {"support"},
    "baselines": METHOD | {"pyramid", "support"},
    "models": METHOD | {"baselines", "pyramid", "support"},
    # what is done with it
    "data": {"support"},
    "evaluation": {"geometry", "joint", "outputs", "support"},
    "training": {"config", "data", "evaluation", "losses", "outputs", "support"},
    "plots": {"data", "support"},
    "reproduction": METHOD | NETWORKS | {"data", "evaluation", "plots", "support", "training"},
    "cli": {"data", "evaluation", "reproduction", "support", "training"},
}
"""By room, a module or package at the top of the library; in the order in which they stand."""


def imports(path: Path) -> Iterator[str]:
    """The rooms that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("cstn_lib."))


def test_every_room_has_its_rule():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert packages | modules == set(MAY_IMPORT)
    assert len(modules) + 2 <= 14, "with __init__ and __main__"


def test_arrows_run_one_way():
    """A room imports only what stands above it, so there is no circle."""
    above: set[str] = set()
    for room, others in MAY_IMPORT.items():
        assert others <= above, room
        above.add(room)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_what_it_may(room):
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").is_file() else []
    for path in files or sorted((PACKAGE / room).rglob("*.py")):
        found = set(imports(path)) - {room}
        assert found <= MAY_IMPORT[room], path.relative_to(PACKAGE)


def test_the_method_is_small():
    method = [*(METHOD - {"samplers"}), "pyramid", "models"]
    lines = [len((PACKAGE / f"{room}.py").read_text().splitlines()) for room in method]
    assert sum(lines) < 1500


HEAVY = ("matplotlib", "pandas", "papermill", "scipy", "seaborn", "IPython")


def test_the_library_loads_little():
    code = f"import cstn_lib, sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


EXTRAS = (*HEAVY, "filelock", "pyarrow", "tqdm", "typer", "ipywidgets", "nbformat")
WITHOUT_EXTRAS = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS}))\n"  # cannot be imported


def run_without_extras(code: str) -> subprocess.CompletedProcess[str]:
    """Python as where only the base of the package is installed."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", WITHOUT_EXTRAS + code]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_layer_and_network_need_no_extra():
    done = run_without_extras(
        "import torch\n"
        "from cstn_lib import ConvSTN2d, ModelConfig, build_model\n"
        "features, theta = ConvSTN2d(4, 8, 5)(torch.rand(2, 4, 9, 9, requires_grad=True))\n"
        "features.sum().backward()\n"
        "output = build_model(ModelConfig(num_classes=3))(torch.rand(1, 3, 80, 80))\n"
        "from cstn_lib.evaluation.choosing import fused\n"
        "assert fused(output.log_joint[:, 0], output.boxes).shape == (1, 4)\n"
        "print(*features.shape, output.log_joint.exp().sum().item().__round__(4))\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "8", "5", "5", "1.0"]


def test_a_missing_extra_is_one_line():
    done = run_without_extras("from cstn_lib.__main__ import main; sys.argv = ['cstn']; main()")
    assert done.returncode == 2
    assert done.stderr == (
        "cstn: typer is not installed; expected the extras: "
        "pip install 'cstn_lib[notebooks,reproduce]'\n"
    )
