"""The samplers' own promises; that they agree inside the layer is tested in `test_cstn`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cstn_lib.geometry import Window, sampling_points
from cstn_lib.samplers import loops
from cstn_lib.samplers import sampling as samplers
from cstn_lib.samplers.sampling import SAMPLERS, choose_sampler, convolve_points

PROJECT = Path(__file__).parents[2]


def run_script(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def bilinear(features: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """The definition: every cell weighs by how near it is."""
    rows, columns = (torch.arange(n, dtype=features.dtype) for n in features.shape[1:])
    down = (1 - (y - rows).abs()).clamp(min=0)
    across = (1 - (x - columns).abs()).clamp(min=0)
    return torch.einsum("chw,h,w->c", features, down, across)


def sample(name: str, features: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(B, h * w, C): each location of a 1-cell window moved onto its own point."""
    height, width = features.shape[2:]
    channels = features.shape[1]
    # a 2-tap window has a half extent of one half: theta's last column is in halves of a cell
    window = Window(2, padding=1, stride=2)
    move = 2 * (points - window.centres((height, width)).to(points))
    theta = torch.cat([torch.zeros(*move.shape[:3], 2, 2).to(move), move.unsqueeze(-1)], dim=-1)
    kernel = torch.eye(channels).repeat(1, 4).to(features) / 4
    return SAMPLERS[name](features, theta, window, kernel)


@pytest.mark.parametrize("name", SAMPLERS)
@settings(max_examples=30, deadline=None)  # the first example compiles
@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    channels=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_values_are_the_definition(device, name, height, width, channels, seed):
    if name == "loops" and device != "cpu":
        pytest.skip("the loops compute on a CPU")
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64)
    shape = (2, height // 2 + 1, width // 2 + 1, 2)
    points = 9 * torch.rand(shape, generator=generator, dtype=torch.float64) - 2
    points[0, 0] = points[0, 0].round()  # on the cells themselves
    values = sample(name, features.to(device), points.to(device)).cpu()
    for b in range(2):
        for point, value in zip(points[b].flatten(0, 1), values[b], strict=True):
            assert torch.allclose(value, bilinear(features[b], *point.tolist()), atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_points_far_outside_feel_no_pull(name):
    features = torch.rand(1, 3, 3, 3) + 1
    points = torch.tensor([[-3.0, 1.0], [9.0, 1.0], [1.0, -7.5], [1.0, 6.25]]).view(1, 2, 2, 2)
    points.requires_grad_()
    values = sample(name, features, points)
    values.sum().backward()
    assert values.abs().max() == 0
    assert points.grad.abs().max() == 0


def everything(sampler: str, batch: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(batch, 6, 9, 8, generator=generator).requires_grad_()
    theta = torch.eye(2, 3) + 0.5 * torch.randn(batch, 7, 6, 2, 3, generator=generator)
    theta.requires_grad_()
    kernel = torch.randn(4, 9 * 6, generator=generator).requires_grad_()
    result = SAMPLERS[sampler](features, theta, Window(3), kernel)
    weights = torch.randn(result.shape, generator=generator)
    return [result, *torch.autograd.grad((result * weights).sum(), (features, theta, kernel))]


@pytest.mark.parametrize("has_numba", [True, False])
def test_points_of_a_theta_give_what_the_theta_gives(monkeypatch, has_numba):
    monkeypatch.setattr(samplers, "has_loops", lambda: has_numba)
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(3, 4, 8, 7, generator=generator).requires_grad_()
    theta = torch.eye(2, 3) + 0.3 * torch.randn(3, 6, 5, 2, 3, generator=generator)
    theta.requires_grad_()
    kernel = torch.randn(2, 9 * 4, generator=generator)
    points = sampling_points(theta, Window(3), (8, 7))
    found = convolve_points(features, points, kernel)
    expected = SAMPLERS["grid_sample"](features, theta, Window(3), kernel)
    assert torch.allclose(found, expected, atol=1e-4)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), (features, theta)),
        torch.autograd.grad(expected.square().sum(), (features, theta)),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("chunk", [1, 3000, 10**9])
def test_chunks_change_nothing(monkeypatch, chunk):
    monkeypatch.setattr(samplers, "CACHE_BYTES", chunk)
    for ours, expected in zip(everything("loops"), everything("grid_sample"), strict=True):
        assert torch.allclose(ours, expected, atol=1e-4)


def test_one_thread_and_several_agree():
    generator = np.random.default_rng(0)
    cells = generator.normal(size=(3, 8, 9, 16)).astype(np.float32)
    theta = generator.normal(size=(3, 40, 6)).astype(np.float32)
    centres = generator.uniform(0, 6, (40, 2)).astype(np.float32)
    taps = generator.normal(size=(25, 3)).astype(np.float32)
    gradient = generator.normal(size=(3, 40, 25, 16)).astype(np.float32)
    found = []
    for threads in (1, 2):
        values, cells_gradient, theta_gradient = (
            np.zeros_like(a) for a in (gradient, cells, theta)
        )
        loops.sample(cells, theta, centres, taps, values, threads)
        both = gradient.copy()
        loops.spread(cells, theta, centres, taps, both, cells_gradient, theta_gradient, threads)
        assert np.allclose(both, values, rtol=1e-5, atol=1e-5), "the way back draws them again"
        found.append((values, cells_gradient, theta_gradient))
    for one, two in zip(*found, strict=True):
        assert np.abs(one).max() > 0
        assert np.allclose(one, two, rtol=1e-5, atol=1e-5)


def test_autocast_gives_its_type_and_nearly_the_value():
    expected = everything("loops")
    before = torch.get_float32_matmul_precision()
    with torch.autocast("cpu", torch.bfloat16):
        found = everything("loops")
    assert torch.get_float32_matmul_precision() == before, "the rest of the network keeps its own"
    assert found[0].dtype == torch.bfloat16
    for value, exact in zip(found, expected, strict=True):
        scale = exact.abs().max()
        assert (value.float() - exact).abs().max() < 0.03 * scale
    assert [value.dtype for value in found[1:]] == [torch.float32] * 3


def test_bfloat16_products_end_with_the_last_thread():
    """The setting is the process's: who leaves first must not put back what others changed."""
    before = samplers._swap_precision("ieee")
    with samplers._products(torch.bfloat16):
        with samplers._products(torch.bfloat16):
            pass
        assert samplers._swap_precision("bf16") != "ieee", "one is still inside"
    assert samplers._swap_precision(before) == "ieee"


def test_the_loops_have_one_derivative():
    features, *others = (torch.randn(1, 3, 4, 4), torch.eye(2, 3).repeat(1, 2, 2, 1, 1))
    features.requires_grad_()
    result = SAMPLERS["loops"](features, *others, Window(3), torch.randn(2, 27))
    with pytest.raises(RuntimeError, match=r"no second derivative .* use sampler='grid_sample'"):
        torch.autograd.grad(result.sum(), features, create_graph=True)


@pytest.mark.parametrize(
    "error", ["ImportError('Numba needs NumPy 2.3 or less')", "OSError('LLVM')"]
)
def test_loops_where_numba_cannot_be_used(tmp_path, error):
    """It may refuse the installed NumPy or C library, which it says when it is imported."""
    (tmp_path / "numba.py").write_text(f"raise {error}\n")
    code = "from cstn_lib.cstn import ConvSTN2d; import torch; x = torch.rand(1, 3, 5, 5)"
    code += "; print(ConvSTN2d(3, 4, 3)(x)[0].shape)"
    done = run_script(code, PYTHONPATH=os.pathsep.join([str(tmp_path), str(PROJECT)]))
    assert "torch.Size([1, 4, 3, 3])" in done.stdout, done.stderr


def test_the_choice(monkeypatch):
    x = torch.empty(1, 64, 2, 2)
    assert choose_sampler(x) == "loops"
    assert choose_sampler(x.to("meta")) == "grid_sample"
    for module, name in ((torch.compiler, "is_compiling"), (torch.jit, "is_tracing")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, lambda: True)
            assert choose_sampler(x) == "grid_sample"
    monkeypatch.setattr(samplers, "has_loops", lambda: False)
    assert choose_sampler(x) == "grid_sample"


def test_torch_compile_leaves_the_loops_alone(tmp_path):
    """In a process that has compiled no loop yet: that is when numba's compiler runs."""
    script = (
        "import torch; from cstn_lib import ConvSTN2d; torch.manual_seed(0); "
        "layer, x = ConvSTN2d(4, 2, 3, sampler='loops'), torch.rand(1, 4, 6, 6).requires_grad_(); "
        "features, theta = torch.compile(layer, backend='eager')(x); "
        "features.sum().backward(); "
        "assert torch.allclose(features, layer.plain(x)[0], atol=1e-5); "
        "assert x.grad.abs().max() > 0"
    )
    done = run_script(script, NUMBA_CACHE_DIR=str(tmp_path), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr


LAYER_SCRIPT = (
    "import torch; from cstn_lib import ConvSTN2d; layer = ConvSTN2d(4, 2, 3, sampler='loops'); "
    "x = torch.rand(3, 4, 6, 6); features, _ = layer(x); features.sum().backward(); "
    "assert torch.allclose(features, layer.plain(x)[0], atol=1e-5)"
)


@pytest.mark.parametrize("layer", ["tbb", "safe", "unheard-of"])
def test_threads_that_numba_does_not_have_are_done_without(layer):
    done = run_script(LAYER_SCRIPT, NUMBA_THREADING_LAYER=layer, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    if layer == "unheard-of":  # the others may be installed
        assert done.stderr.count("The layer uses one thread.") == 1


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_emptied_files_in_numbas_cache(tmp_path, kind):
    """As a full disk or a cut power supply leaves them."""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    script = "import torch; from cstn_lib import ConvSTN2d; ConvSTN2d(4, 2, 3, sampler='loops')"
    script += "(torch.rand(3, 4, 6, 6))"
    assert run_script(script, **environment).returncode == 0
    (file,) = tmp_path.rglob(f"*.{kind}")
    file.write_bytes(b"")
    done = run_script(script, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"numba's cache in {tmp_path}") == 1


def test_a_disk_that_is_full_for_numbas_cache(tmp_path):
    script = (
        "import errno; from numba.core.caching import IndexDataCacheFile as File\n"
        "def save(*_): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        f"File.save = save; {LAYER_SCRIPT}"
    )
    done = run_script(script, NUMBA_CACHE_DIR=str(tmp_path), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "No space left on device); compiled for this process alone" in done.stderr


@pytest.mark.parametrize("setting", [{"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_NUM_THREADS": "0"}])
def test_settings_of_numba_that_leave_no_loops(setting):
    script = "import torch; from cstn_lib import ConvSTN2d\n"
    script += "ConvSTN2d(3, 4, 3)(torch.rand(2, 3, 6, 6))[0].sum().backward()"
    done = run_script(script, **setting)
    assert done.returncode == 0, done.stderr


def test_the_layer_works_where_numba_is_missing():
    script = (
        "import sys; sys.modules['numba'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'numba' else find(name, *rest)\n"
        "import torch; from cstn_lib.cstn import ConvSTN2d\n"
        "layer = ConvSTN2d(3, 4, 3); layer(torch.rand(2, 3, 6, 6))[0].sum().backward()\n"
        "print(layer.weight.grad.shape)"
    )
    done = run_script(script)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([4, 3, 3, 3])" in done.stdout
