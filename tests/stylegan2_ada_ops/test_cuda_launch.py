"""The way from an operator to the CUDA driver; the emulation takes the driver's place and CPU tensors the GPU's."""

import threading

import pytest
import torch

from stylegan2_ada.ops import native, reference
from stylegan2_ada.ops.native import cuda_launch, cuda_ops, nvrtc
from stylegan2_ada.ops.native.toolchain import BuildError
from tests.stylegan2_ada_ops import cuda_emulator


@pytest.fixture
def gpu(monkeypatch):
    """GPU 0 as cuda_launch makes it; NVRTC gives no more than something that looks like a cubin."""
    library = cuda_emulator.library()
    monkeypatch.setattr(cuda_launch, "_driver", lambda: library)
    monkeypatch.setattr(cuda_launch, "_launch", cuda_launch._launch)
    for name, types in cuda_launch.ARGUMENTS.items():
        getattr(library, name).argtypes = types
    monkeypatch.setattr(nvrtc, "kernels", lambda *what: b"\x7fELF" + repr(what).encode())
    monkeypatch.setattr(nvrtc, "target", lambda capability: "sm_90")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 0x77, raising=False)
    device = cuda_launch._Device(0)
    return cuda_ops.Gpu(2, device.launch)


def test_operators_through_the_driver(gpu):
    x, b = torch.randn(2, 8, 6, 6, requires_grad=True), torch.randn(8)
    for _ in range(3):  # the second call finds plan and arguments ready
        with torch.no_grad():
            y = cuda_ops.bias_act(gpu, x, b, 1, 2, 0.2, 1.4, -1.0)
            f = torch.tensor([1.0, 3, 3, 1])
            z = cuda_ops.upfirdn2d(gpu, x, f, 2, 2, 1, 1, 2, 2, 12, 12, False, 1.0)
        expected = reference.bias_act(x, b, 1, "lrelu", 0.2, 1.4, None)
        torch.testing.assert_close(y, expected.detach())
        torch.testing.assert_close(z, reference.upfirdn2d(x, f, (2, 2), (1, 1), (2, 1, 2, 1), False, 1.0).detach())
        x = torch.randn(2, 8, 6, 6)
    g = torch.randn_like(expected)
    gx, gb = cuda_ops.bias_act_grad_bias(gpu, g, y, 1, 2, 0.2, 1.4, -1.0)
    torch.testing.assert_close(gb, gx.sum([0, 2, 3]))


def test_a_thread_that_never_used_the_device(gpu):
    """As autograd's threads may be: the first launch there has no context, and makes itself one."""
    results = []
    x = torch.randn(3, 5)
    cuda_ops.bias_act(gpu, x, None, 1, 1, 0.2, 1.0, -1.0)
    thread = threading.Thread(target=lambda: results.append(cuda_ops.bias_act(gpu, x, None, 1, 1, 0.2, 1.0, -1.0)))
    thread.start()
    thread.join()
    torch.testing.assert_close(results[0], x.relu())


def test_a_failing_launch_tells_what_and_why(gpu, monkeypatch):
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 0x78)  # the emulation wants 0x77
    with pytest.raises(RuntimeError, match="launching bias_act_f32 over 1 blocks failed: some error"):
        cuda_ops.bias_act(gpu, torch.zeros(3, 5), None, 1, 1, 0.2, 1.0, -1.0)


def test_no_driver_is_one_line(monkeypatch):
    cuda_launch._driver.cache_clear()
    monkeypatch.setattr(cuda_launch.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError("not found")))
    with pytest.raises(BuildError, match="the CUDA driver does not load"):
        cuda_launch._driver()


def test_nvcc_first_then_nvrtc(monkeypatch):
    def no_nvcc(part):
        raise BuildError("no nvcc on PATH")

    monkeypatch.setattr(native, "_load", lambda part: "compiled")
    assert native._load_cuda() == "compiled"
    monkeypatch.setattr(native, "_load", no_nvcc)
    monkeypatch.setattr(cuda_launch, "register", lambda: "compiled by NVRTC")
    assert native._load_cuda() == "compiled by NVRTC (not by nvcc: no nvcc on PATH)"
    monkeypatch.setenv("STYLEGAN_OPS_CUDA", "nvcc")
    with pytest.raises(BuildError, match="no nvcc on PATH"):
        native._load_cuda()
    monkeypatch.setenv("STYLEGAN_OPS_CUDA", "nvrtc")
    assert native._load_cuda() == "compiled by NVRTC"
    monkeypatch.setenv("STYLEGAN_OPS_CUDA", "metal")
    with pytest.raises(ValueError, match="neither nvcc nor nvrtc"):
        native._load_cuda()


def test_registered_implementations_find_their_gpu(monkeypatch):
    """The operator is called with the GPU of its first tensor, and that GPU is the current one meanwhile."""
    current, calls = [0], []

    class Guard:
        def __init__(self, index):
            self.index = index

        def __enter__(self):
            self.before, current[0] = current[0], self.index

        def __exit__(self, *_):
            current[0] = self.before

    class Tensor:
        def get_device(self):
            return 1

    monkeypatch.setattr(cuda_launch, "_gpus", {1: "gpu 1"})
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: current[0], raising=False)
    monkeypatch.setattr(torch.cuda, "device", Guard)
    cuda_launch._implementation(lambda gpu, *a: calls.append((gpu, current[0], a[1:])))(Tensor(), 2, 3)
    assert calls == [("gpu 1", 1, (2, 3))] and current == [0]
