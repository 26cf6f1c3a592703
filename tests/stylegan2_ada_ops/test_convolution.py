"""Convolution with full-precision weights: its values and its derivatives of both orders, and the prepared weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from stylegan2_ada.ops.convolution import Geometry, convolve, input_gradients_only

GEOMETRIES = [
    Geometry(1, (1, 1)),
    Geometry(1, (0, 2), flip=True, gain=0.3),
    Geometry(2, (0, 0), gain=-2.0),
    Geometry(2, (0, 0), transposed=True, flip=True),
    Geometry(2, (1, 0), transposed=True, gain=0.5),
]


def plain(x, w, g: Geometry):
    w = (w * g.gain).flip([2, 3]) if g.flip else w * g.gain
    if g.transposed:
        return F.conv_transpose2d(x, w.transpose(0, 1), stride=g.stride, padding=g.padding)
    return F.conv2d(x, w, stride=g.stride, padding=g.padding)


def operands(dtype=torch.float64, kernel=3, parameter=False):
    torch.manual_seed(0)
    x, w = torch.randn(2, 3, 7, 5, dtype=dtype), torch.randn(4, 3, kernel, kernel, dtype=torch.float64)
    w = w if dtype == torch.float64 else w.float()
    return x.requires_grad_(), nn.Parameter(w) if parameter else w.requires_grad_()


@pytest.mark.parametrize("g", GEOMETRIES, ids=str)
@pytest.mark.parametrize("parameter", [False, True], ids=["tensor", "parameter"])
def test_values_and_derivatives_are_those_of_pytorch(g, parameter):
    x, w = operands(parameter=parameter)
    results = []
    for f in (convolve, plain):
        y = f(x, w, g)
        gx, gw = torch.autograd.grad((y * y.detach().cos()).sum(), [x, w], create_graph=True)
        second = torch.autograd.grad(gx.square().sum() + (gw**3).sum(), [x, w])
        results.append((y, gx, gw, *second))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("g", GEOMETRIES[:4], ids=str)
def test_finite_differences(g):
    x, w = operands(kernel=2)
    assert gradcheck(lambda x, w: convolve(x, w, g), (x, w))
    assert gradgradcheck(lambda x, w: convolve(x, w, g), (x, w))


def test_low_precision_activations_with_full_precision_weights():
    x, w = operands(torch.bfloat16)
    g = Geometry(1, (1, 1), gain=0.1)
    y = convolve(x, w, g)
    exact = plain(x.detach().double(), w.detach().double(), g)
    gx, gw = torch.autograd.grad(y.sum(), [x, w])
    assert (y.dtype, gx.dtype, gw.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    torch.testing.assert_close(y.double(), exact, rtol=2e-2, atol=2e-2)


def test_unwanted_weight_gradients_are_left_out():
    x, w = operands()
    y = convolve(x, w, GEOMETRIES[0])
    with input_gradients_only():
        gx, gw = torch.autograd.grad(y.sum(), [x, w], create_graph=True, allow_unused=True)
    assert gw is None and gx is not None
    (second,) = torch.autograd.grad(gx.square().sum(), w)  # the second half has them
    expected = torch.autograd.grad(plain(x, w, GEOMETRIES[0]).sum(), x, create_graph=True)[0]
    torch.testing.assert_close(second, torch.autograd.grad(expected.square().sum(), w)[0])
    assert torch.autograd.grad(convolve(x, w, GEOMETRIES[0]).sum(), w)[0] is not None


def test_an_empty_batch():
    w = torch.randn(4, 3, 3, 3, requires_grad=True)
    y = convolve(torch.empty(0, 3, 8, 8, requires_grad=True), w, Geometry(1, (1, 1)))
    assert y.shape == (0, 4, 8, 8)
    y.sum().backward()
    assert w.grad.abs().sum() == 0
