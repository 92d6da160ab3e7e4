"""JupyterLab in a real browser: run a notebook, save it, open it again. For a person to run.

Needs what the tests do not: ``pip install playwright`` and Chromium (``apt-get install chromium``).

    python -m pytest tests/notebooks/test_browser.py
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is absent")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

pytestmark = [
    pytest.mark.notebooks,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is absent"),
]

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SLIDERS_PICTURE = ".widget-html img"
SHOWN = f"document.querySelector('{SLIDERS_PICTURE}')?.src"
MINUTE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the notebooks, without outputs, with the parameters of a short run."""
    root = tmp_path_factory.mktemp("root")
    given = {"profile": "smoke", "device": "cpu"}
    given |= {f"{name}_dir": str(root / name) for name in ("runs", "figures")}
    (root / "notebooks").mkdir()
    for path in NOTEBOOKS.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
            if "parameters" in cell.metadata.get("tags", []):
                cell.source += "".join(f"\n{name} = {value!r}" for name, value in given.items())
        nbformat.write(notebook, root / "notebooks" / path.name)
    return root


@pytest.fixture(scope="module")
def lab(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab with the settings of ``make lab``."""
    settings = tmp_path_factory.mktemp("settings")
    ours = json.loads((NOTEBOOKS / "settings" / "overrides.json").read_text(encoding="utf-8"))
    # all of a notebook is in the page, not only what is in sight
    ours["@jupyterlab/notebook-extension:tracker"] = {"windowingMode": "none"}
    (settings / "overrides.json").write_text(json.dumps(ours), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
            *(f"--port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={root}"),
            *(f"--LabApp.app_settings_dir={settings}", "--LabApp.expose_app_in_browser=True"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5).close()
                break
            except urllib.error.URLError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def page(lab: str) -> Iterator[object]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(5 * MINUTE)
        yield page
        browser.close()


def open_notebook(page: object, lab: str, name: str) -> None:
    page.goto(f"{lab}/lab/tree/notebooks/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_function(  # its kernel is there
        "() => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    )


def command(page: object, name: str) -> None:
    page.evaluate(f"() => jupyterapp.commands.execute('{name}').then(() => null)")


@pytest.mark.parametrize("name", ["00_start_here", "03_convolutional_stn", "07_table_1"])
def test_run_save_and_open_again(page: object, lab: str, root: Path, name: str):
    open_notebook(page, lab, f"{name}.ipynb")
    command(page, "notebook:run-all-cells")
    if name == "03_convolutional_stn":
        first = page.locator(SLIDERS_PICTURE).get_attribute("src")
        handle = page.locator(".noUi-handle").first
        handle.focus()
        handle.press("ArrowRight")
        page.wait_for_function(f"before => {SHOWN} && {SHOWN} !== before", arg=first)
        page.get_by_role("button", name="reset", exact=True).click()
        page.wait_for_function(f"before => {SHOWN} === before", arg=first)
    command(page, "docmanager:save")
    saved = nbformat.read(root / "notebooks" / f"{name}.ipynb", as_version=4)
    outputs = [out for cell in saved.cells for out in cell.get("outputs", [])]
    assert all(c.execution_count for c in saved.cells if c.cell_type == "code" and c.source)
    assert not [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"]

    page.evaluate("() => jupyterapp.serviceManager.sessions.shutdownAll()")
    page.goto(f"{lab}/lab/tree/notebooks/{name}.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-OutputArea-output img")
    page.wait_for_timeout(5000)  # widgets come last
    assert page.get_by_text("Error displaying widget").count() == 0
    assert page.get_by_text("Loading widget").count() == 0
    if name == "03_convolutional_stn":
        assert page.locator(SLIDERS_PICTURE).is_visible()
    texts = page.eval_on_selector_all(".jp-OutputArea-output img", "all => all.map(i => i.alt)")
    assert texts
    assert all(texts)
