"""The Triton kernels: on a GPU (`-m gpu`), and the same tests in Triton's interpreter on any machine.

The interpreter must be chosen before anything imports triton, so it gets a process of its own.
"""

import os
import subprocess
import sys

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.fixture
def device(monkeypatch) -> str:
    if not INTERPRETED and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    from kernels import triton_backend

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    # Small blocks, so that small inputs need several.
    monkeypatch.setattr(triton_backend, "FRAMES", 4)
    monkeypatch.setattr(triton_backend, "CHANNELS_PER_PROGRAM", 2)
    monkeypatch.setattr(triton_backend, "PROGRAMS", 2)
    return "cpu" if INTERPRETED else "cuda"


@pytest.mark.gpu
def test_triton_outputs_and_gradients(case, device, relative_errors, poisoned):
    assert max(relative_errors(case, "triton", torch.float32, device)) < BOUNDS[torch.float32]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_triton_half_precision(case, dtype, device, relative_errors, poisoned):
    if INTERPRETED and case.name not in ("depthwise strided", "grouped"):
        pytest.skip("one case of each kernel is enough in the slow interpreter")
    assert max(relative_errors(case, "triton", dtype, device)) < BOUNDS[dtype]


@pytest.mark.skipif(INTERPRETED, reason="this is the process of its own")
def test_in_the_interpreter():
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-n", "0", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def compile_only(monkeypatch):
    """Launches compile for a GPU that is not there and stop before running."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    class Driver:
        def __init__(self, capability):
            self.capability = capability

        def get_current_target(self):
            return GPUTarget("cuda", self.capability, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 0

    compiled = []

    def launch(kernel, grid):
        return lambda *args, **options: compiled.append(kernel.warmup(*args, grid=grid, **options))

    monkeypatch.setattr(triton.runtime.jit.KernelInterface, "__getitem__", launch)
    yield lambda capability: driver.set_active(Driver(capability)) or compiled
    driver.set_active(None)  # found anew on the next use; reset_active would fail where there is no GPU


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled in the interpreter")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("c_in, c_out, groups, taps", [(16, 16, 16, (3, 3)), (16, 16, 1, (1, 1)), (64, 32, 1, (3, 3))])
def test_compiles_for_a_gpu_without_one(c_in, c_out, groups, taps, dtype, capability, compile_only):
    from kernels import triton_backend

    compiled = compile_only(capability)
    x, attention = torch.randn(2, c_in, 5, 33).to(dtype), torch.rand(2, 5, 8)
    weight, bias = torch.randn(8, c_out, c_in // groups, *taps), torch.randn(c_out)
    geometry = (1, taps[1] // 2, groups)
    y = triton_backend.forward(x, attention, weight, bias, *geometry)
    triton_backend.gradients(y, x, attention, weight, *geometry, with_input=True)
    assert len(compiled) == 3
    assert max(kernel.metadata.shared for kernel in compiled) <= 99 * 1024  # what every GPU since Ampere has
