"""The CUDA operators on a GPU, compiled by nvcc (where there is one) and by NVRTC. `make test-gpu` runs them.

For a check of memory accesses, races and barriers by NVIDIA's tools (memory of its own for every tensor, no graphs):

    export PYTORCH_NO_CUDA_MEMORY_CACHING=1
    for tool in memcheck racecheck initcheck synccheck; do
        compute-sanitizer --tool $tool --error-exitcode 1 python -m pytest -q -m "gpu and not slow" -k "not graph" \\
            tests/stylegan2_ada_ops/test_cuda_gpu.py || break
    done
"""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from stylegan2_ada.ops import native
from stylegan2_ada.ops.bias_act import bias_act
from stylegan2_ada.ops.modconv_epilogue import modconv_epilogue, scale_channels
from stylegan2_ada.ops.native import cuda_launch, cuda_ops
from stylegan2_ada.ops.upfirdn2d import downsample2d, fir_taps, upfirdn2d, upsample2d
from tests.stylegan2_ada_ops import cuda_cases
from tests.stylegan2_ada_ops.cuda_cases import DTYPES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(900),
]
NAMES = [f.__name__ for f in cuda_ops.OPERATORS]


@pytest.fixture(scope="module")
def registered():
    """The operators as users call them: by nvcc's kernels if there is an nvcc, else by NVRTC's."""
    status = native.status("cuda")
    assert status.native, status.why
    return SimpleNamespace(**{name: getattr(torch.ops.stylegan2_ada, name) for name in NAMES})


@pytest.fixture(params=["registered", "nvrtc"])
def ops(request, registered):
    if request.param == "registered":
        return registered
    gpu = cuda_launch._gpus.get(0) or cuda_launch._gpu(0)
    return SimpleNamespace(**{f.__name__: partial(f, gpu) for f in cuda_ops.OPERATORS})


@pytest.fixture
def draw():
    return cuda_cases.normal("cuda")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "case",
    [
        cuda_cases.upfirdn2d,
        cuda_cases.bias_act,
        cuda_cases.derivatives_of_bias_act,
        cuda_cases.modconv_epilogue,
        cuda_cases.modconv_epilogue_grad,
    ],
)
def test_operators(ops, draw, case, dtype):
    case(ops, draw, dtype)


@pytest.mark.parametrize(
    "case",
    [
        cuda_cases.upfirdn2d_with_different_axes,
        cuda_cases.upfirdn2d_of_a_view_that_begins_anywhere,
        partial(cuda_cases.upfirdn2d_goes_down_many_rows, shape=(4, 64, 510, 514)),
        cuda_cases.gradients_are_the_same_in_every_run,
    ],
)
def test_special_cases(ops, draw, case):
    case(ops, draw)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_first_and_second_derivatives(registered, draw, layout):
    """Of the functions that networks call, in float64."""
    x = draw(2, 3, 5, 6, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    f = fir_taps([1, 3, 3, 1], device="cuda").double()
    d, b = draw(2, 3, dtype=torch.float64).requires_grad_(), draw(3, dtype=torch.float64).requires_grad_()
    noise = draw(2, 1, 5, 6, dtype=torch.float64).requires_grad_()
    for function, inputs in (
        (lambda x: upfirdn2d(x, f, padding=(2, 1)), (x,)),
        (lambda x: upsample2d(x, f), (x,)),
        (lambda x: downsample2d(x, f), (x,)),
        (lambda x, b: bias_act(x, b, act="lrelu", clamp=1.5), (x, b)),
        (lambda x, b: bias_act(x, b, act="swish"), (x, b)),
        (lambda x, b: bias_act(x, b, act="softplus"), (x, b)),
        (scale_channels, (x, d)),
        (lambda y, d, n, b: modconv_epilogue(y, d, n, b, act="lrelu", clamp=2.0), (x, d, noise, b)),
        (lambda y, d, n, b: modconv_epilogue(y, d, n, b, act="tanh"), (x, d, noise, b)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_operators_keep_torchs_rules(registered, draw):
    x, b, d, noise = draw(2, 8, 4, 4), draw(8), draw(2, 8), draw(2, 1, 4, 4)
    f = fir_taps([1, 3, 3, 1], device="cuda")
    x.requires_grad_()
    parameters = (2, 0.2, 1.4, -1.0)
    for name, arguments in (
        ("upfirdn2d", (x, f, 2, 2, 1, 1, 2, 2, 8, 8, False, 4.0)),
        ("bias_act", (x, b, 1, *parameters)),
        ("bias_act_grad", (x, x.detach(), *parameters)),
        ("bias_act_grad_bias", (x.detach(), x.detach(), 1, *parameters)),
        ("modconv_epilogue", (x, d, noise, b, *parameters)),
        ("modconv_epilogue_grad", (x.detach(), x.detach(), None, d, noise, b, *parameters)),
    ):
        torch.library.opcheck(getattr(torch.ops.stylegan2_ada, name).default, arguments)


def layer(x, f, d, noise, b):
    """What a layer of the generator does beside its convolution."""
    y = upfirdn2d(scale_channels(x, d), f, padding=(2, 1, 2, 1), gain=4)
    return modconv_epilogue(y, d, noise, b, act="lrelu", clamp=256).square().mean()


def layer_inputs(draw, dtype=torch.float16):
    x = draw(2, 16, 8, 8, dtype=dtype, last=True).requires_grad_()
    d, b = draw(2, 16).requires_grad_(), draw(16).requires_grad_()
    return x, fir_taps([1, 3, 3, 1], device="cuda"), d, draw(2, 1, 8, 8), b


def test_a_cuda_graph_of_a_layer(registered, draw):
    inputs = layer_inputs(draw)
    wanted = [t for t in inputs if t.requires_grad]
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(2):
            torch.autograd.grad(layer(*inputs), wanted)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = layer(*inputs)
        grads = torch.autograd.grad(loss, wanted)
    with torch.no_grad():
        inputs[0].copy_(draw(*inputs[0].shape, dtype=inputs[0].dtype))
    graph.replay()
    expected = layer(*inputs)
    assert torch.equal(loss, expected)
    assert all(torch.equal(a, b) for a, b in zip(grads, torch.autograd.grad(expected, wanted)))


def test_a_compiled_layer(registered, draw):
    inputs = layer_inputs(draw, torch.float32)
    wanted = [t for t in inputs if t.requires_grad]
    expected = layer(*inputs)
    found = torch.compile(layer, fullgraph=True)(*inputs)
    torch.testing.assert_close(found, expected)
    for a, b in zip(torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted)):
        torch.testing.assert_close(a, b)


def test_kernels_run_on_the_current_stream(ops, draw):
    """A side stream first sleeps, then makes the input: a kernel on another stream would not see it."""
    x, filled = draw(4, 8, 64, 64), torch.zeros(4, 8, 64, 64, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        filled.copy_(x)
        y = ops.bias_act(filled, None, 1, 0, 0.2, 2.0, -1.0)
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(y, 2 * x)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_another_device_than_the_current_one(registered, draw):
    x = draw(2, 8, 4, 4)
    y = registered.bias_act(x.to("cuda:1"), None, 1, 2, 0.2, 1.0, -1.0)
    assert y.device.index == 1 and torch.cuda.current_device() == 0
    assert torch.equal(y.to("cuda:0"), registered.bias_act(x, None, 1, 2, 0.2, 1.0, -1.0))


@pytest.mark.slow
@pytest.mark.parametrize("last", [False, True])
def test_more_than_two_to_the_31_elements(ops, last):
    free, _ = torch.cuda.mem_get_info()
    if free < 24 << 30:
        pytest.skip("needs 24 GB of GPU memory")
    n, c, size = 9, 64, 2048
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.empty(n, c, size, size, dtype=torch.bfloat16, device="cuda", memory_format=layout)
    assert x.numel() > 2**31
    x.normal_()
    b, d = torch.randn(c, device="cuda"), torch.randn(n, c, device="cuda")
    f = torch.tensor([1.0, 3, 3, 1], device="cuda") / 8
    last_image = x[n - 1 :]

    def same(found, expected):
        torch.testing.assert_close(found[n - 1 :].float(), expected.float())

    same(ops.bias_act(x, b, 1, 2, 0.2, 1.4, -1.0), ops.bias_act(last_image, b, 1, 2, 0.2, 1.4, -1.0))
    same(
        ops.modconv_epilogue(x, d, None, b, 2, 0.2, 1.4, -1.0),
        ops.modconv_epilogue(last_image, d[n - 1 :], None, b, 2, 0.2, 1.4, -1.0),
    )
    arguments = (1, 1, 1, 1, 2, 2, size, size, False, 1.0)
    same(ops.upfirdn2d(x, f, *arguments), ops.upfirdn2d(last_image, f, *arguments))
    arguments = (1, 1, 2, 2, 1, 1, size // 2, size // 2, False, 1.0)
    same(ops.upfirdn2d(x, f[:3], *arguments), ops.upfirdn2d(last_image, f[:3], *arguments))
    found = ops.modconv_epilogue_grad(x, x, None, d, None, b, 2, 0.2, 1.4, -1.0)
    expected = ops.modconv_epilogue_grad(
        last_image, last_image, None, d[n - 1 :], None, b, 2, 0.2, 1.4, -1.0
    )  # fmt: skip
    same(found[0], expected[0])
    torch.testing.assert_close(found[1][n - 1 :], expected[1], rtol=1e-3, atol=1.0)
