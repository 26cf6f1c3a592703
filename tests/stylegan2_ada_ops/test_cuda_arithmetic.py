"""What the CUDA kernels compute, without a GPU: the .cu files as C++ behind an emulation of threads and barriers.

Launches come from the same Python code as on a GPU (`native/cuda_ops.py`). Memory that a kernel leaves alone is NaN,
and threads run in ascending and in descending order by turns.
"""

import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from stylegan2_ada.ops import reference
from stylegan2_ada.ops.native import cuda_ops, cuda_plan
from tests.stylegan2_ada_ops import cuda_cases, cuda_emulator
from tests.stylegan2_ada_ops.cuda_cases import DTYPES, close


@pytest.fixture(scope="module")
def emulator():
    return cuda_emulator.Emulator()


@pytest.fixture
def ops(emulator, monkeypatch):
    """The operators. What they allocate holds NaN, so that an element that is never written is seen."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(cuda_ops.torch, name, lambda *a, _make=make, **k: _make(*a, **k).fill_(float("nan")))
    emulator.launched.clear()
    return SimpleNamespace(**{f.__name__: partial(f, emulator.gpu) for f in cuda_ops.OPERATORS})


@pytest.fixture
def draw():
    return cuda_cases.normal("cpu")


@pytest.mark.parametrize("dtype", DTYPES)
def test_upfirdn2d(ops, emulator, draw, dtype):
    cuda_cases.upfirdn2d(ops, draw, dtype)
    if dtype == torch.float64:
        assert set(emulator.launched) == {"upfirdn2d_any_f64"}
    else:
        assert len(emulator.launched) == 12, "some kernels were not tried"


@pytest.mark.parametrize(
    "case",
    [
        cuda_cases.upfirdn2d_with_different_axes,
        cuda_cases.upfirdn2d_of_a_view_that_begins_anywhere,
        cuda_cases.upfirdn2d_goes_down_many_rows,
    ],
)
def test_special_cases_of_upfirdn2d(ops, draw, case):
    case(ops, draw)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_act(ops, draw, dtype):
    cuda_cases.bias_act(ops, draw, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_derivatives_of_bias_act(ops, draw, dtype):
    cuda_cases.derivatives_of_bias_act(ops, draw, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_modconv_epilogue(ops, emulator, draw, dtype):
    cuda_cases.modconv_epilogue(ops, draw, dtype)
    assert len(emulator.launched) == (2 if dtype == torch.float64 else 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_modconv_epilogue(ops, emulator, draw, dtype):
    cuda_cases.modconv_epilogue_grad(ops, draw, dtype)
    kernels = [name for name in emulator.launched if name.startswith("modconv")]
    assert len(kernels) == (3 if dtype == torch.float64 else 5), kernels


def test_gradients_are_the_same_in_every_run(ops, emulator, draw):
    """Whatever order the threads run in: this case launches an odd number of kernels each time."""
    cuda_cases.gradients_are_the_same_in_every_run(ops, draw, between=lambda: emulator.launched.update(turn=1))


def test_large_tensors_are_done_in_pieces(ops, draw, monkeypatch):
    """Indices in the kernels have 32 bits; here the limit is lower."""
    pieces = cuda_ops._pointwise_pieces
    monkeypatch.setattr(cuda_plan, "LIMIT", 0)
    for limit, shape, dim in ((512, (9, 3, 4), 1), (64, (2, 5, 3, 7), 1), (100, (3, 6, 2, 50), 1), (40, (7, 11), 1)):
        monkeypatch.setattr(
            cuda_ops, "_pointwise_pieces", lambda *a, limit=limit, **k: pieces(*a, **k, limit=limit)
        )  # fmt: skip
        x, b = draw(*shape), draw(shape[dim])
        y = ops.bias_act(x, b, dim, 2, 0.2, 1.0, -1.0)
        close(y, reference.bias_act(x.double(), b.double(), dim, "lrelu", 0.2, 1.0, None))
        gx = ops.bias_act_grad(x, y, 2, 0.2, 1.0, -1.0)
        close(gx, x.double() * torch.where(y > 0, 1.0, 0.2))


def test_what_cannot_be_computed_is_refused(ops, draw):
    x = draw(1, 2, 3, 4)
    with pytest.raises(ValueError, match="float32, float64, bfloat16 or float16"):
        ops.bias_act(x.int(), None, 1, 0, 0.2, 1.0, -1.0)
    with pytest.raises(ValueError, match="does not go with"):
        ops.bias_act_grad(x, x[..., :2], 0, 0.2, 1.0, -1.0)
    for call in (ops.bias_act, lambda x, *a: ops.modconv_epilogue(x, None, *a)):
        with pytest.raises(ValueError, match="no activation has the number 9"):
            call(x, None, 1 if call is ops.bias_act else None, 9, 0.2, 1.0, -1.0)
    with pytest.raises(ValueError, match="factors of at least 1"):
        ops.upfirdn2d(x, torch.ones(1), 0, 1, 1, 1, 0, 0, 3, 4, False, 1.0)


def test_empty_tensors_launch_nothing(ops, emulator):
    x = torch.empty(0, 4, 3, 3)
    assert ops.bias_act(x, torch.zeros(4), 1, 2, 0.2, 1.0, -1.0).shape == x.shape
    assert ops.upfirdn2d(x, torch.ones(1), 1, 1, 1, 1, 0, 0, 3, 3, False, 1.0).shape == x.shape
    grads = ops.modconv_epilogue_grad(x, x, x, torch.empty(0, 4), None, torch.zeros(4), 2, 0.2, 1.0, -1.0)
    assert [tuple(t.shape) for t in grads] == [(0, 4, 3, 3), (0, 4), (0, 1, 3, 3), (4,)]
    assert not emulator.launched and not grads[3].any()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_access_beyond_the_arrays():
    """The same under AddressSanitizer and UndefinedBehaviorSanitizer: what compute-sanitizer would see on a GPU."""
    if cuda_emulator.SANITIZED:
        pytest.skip("that is what runs now")
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(runtime):
        pytest.skip("no AddressSanitizer runtime")
    cuda_emulator.library(*cuda_emulator.SANITIZERS, load=False)
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "STYLEGAN_OPS_TEST_SANITIZE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=1500", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
