"""What the CUDA operators have to compute, as checks that run on the emulation and on a GPU alike.

A check takes the operators as functions (`ops.bias_act(x, b, ...)`), `draw(*shape, dtype=, last=)` for normal numbers,
and a number type. Results are compared with the definitions of `ops/reference.py` in float64.
"""

import itertools

import torch

from stylegan2_ada.ops import reference
from stylegan2_ada.ops.bias_act import DEFAULT_GAIN

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13, torch.bfloat16: 6e-3, torch.float16: 8e-4}
ACTS = tuple(DEFAULT_GAIN)


def normal(device):
    """`draw`: normal numbers, the same in every run."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, dtype=torch.float32, last=False):
        x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype=dtype, device=device)
        return x.contiguous(memory_format=torch.channels_last) if last and len(shape) == 4 else x

    return draw


def close(result, expected, dtype=None, slack=1.0):
    """Relative to the whole: a sum of many terms may have lost digits in single elements."""
    assert result.shape == expected.shape
    error = (result.double() - expected).norm() / expected.norm().clamp_min(1e-30)
    assert error < TOLERANCE[dtype or result.dtype] * slack, f"relative error {error:.2e}"


def layout(x):
    last = x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


UPFIRDN = [  # up, down, taps, padding
    (1, 1, 4, (2, 1)), (1, 1, 4, (1, 2)), (1, 1, 4, (-1, 6)), (1, 1, 4, (9, -2)), (2, 1, 4, (2, 1)), (2, 1, 4, (3, 2)),
    (2, 1, 4, (-1, 4)), (1, 2, 4, (1, 1)), (1, 2, 4, (0, 3)), (1, 2, 4, (-2, 5)), (2, 1, 12, (6, 5)),
    (2, 1, 12, (3, 9)), (1, 2, 12, (5, 5)), (1, 2, 12, (-1, 9)), (3, 2, 5, (2, 3)), (1, 1, 1, (0, 0)),
    (2, 1, 2, (0, 1)),
]  # fmt: skip
SHAPES = [(2, 3, 5, 7), (1, 16, 9, 8), (2, 8, 17, 16), (1, 1, 1, 1), (3, 2, 4, 33), (1, 24, 3, 40)]


def upfirdn2d(ops, draw, dtype):
    cases = itertools.product(UPFIRDN, SHAPES, (False, True), ("separable", "product", "table"))
    for number, ((up, down, taps, pad), shape, last, kind) in enumerate(cases):
        height, width = ((size * up + sum(pad) - taps) // down + 1 for size in shape[2:])
        if min(size * up + sum(pad) for size in shape[2:]) < taps or min(shape[2:]) * up + min(pad) < 1:
            continue
        if dtype != torch.float32 and number % 3:
            continue
        f = draw(taps) + 1 if kind == "separable" else draw(taps, taps)
        f = torch.outer(draw(taps) + 2, draw(taps) + 2) if kind == "product" else f
        f = f.double() if number % 5 == 0 else f
        x, flip = draw(*shape, dtype=dtype, last=last), bool(number % 2)
        y = ops.upfirdn2d(x, f, up, up, down, down, pad[0], pad[0], height, width, flip, 1.5)
        assert y.stride() == torch.empty_like(y, memory_format=layout(x)).stride()
        expected = reference.upfirdn2d(x.double(), f.double(), (up, up), (down, down), (*pad, *pad), flip, 1.5)
        close(y, expected)


def upfirdn2d_with_different_axes(ops, draw):
    x, f = draw(2, 3, 6, 9), draw(3, 5)
    y = ops.upfirdn2d(x, f, 2, 1, 1, 3, 2, -1, 1, 16, True, -0.5)
    expected = reference.upfirdn2d(x.double(), f.double(), (2, 1), (1, 3), (2, 0, -1, 0), True, -0.5)
    close(y, expected[:, :, :1, :16])


def upfirdn2d_of_a_view_that_begins_anywhere(ops, draw):
    x, f = draw(1 + 2 * 8 * 8 * 8)[1:].view(2, 8, 8, 8), draw(4)
    assert x.data_ptr() % 16
    y = ops.upfirdn2d(x, f, 1, 1, 1, 1, 2, 2, 9, 9, False, 1.0)
    close(y, reference.upfirdn2d(x.double(), f.double(), (1, 1), (1, 1), (2, 2, 2, 2), False, 1.0))


def upfirdn2d_goes_down_many_rows(ops, draw, shape=(1, 64, 37, 40)):
    """Enough threads that each makes more rows than the least."""
    images, f = draw(*shape, last=True), draw(4)
    for x in (images, images.contiguous()):
        for up, down in ((1, 1), (2, 1), (1, 2)):
            height, width = (size * up // down for size in shape[2:])
            y = ops.upfirdn2d(x, f, up, up, down, down, 2, 2, height, width, False, 1.0)
            expected = reference.upfirdn2d(x.double(), f.double(), (up, up), (down, down), (2, 2, 2, 2), False, 1.0)
            close(y, expected[:, :, :height, :width])


def parameters(number):
    """Number of an activation, alpha, gain, clamp, in some variety."""
    act = number % len(ACTS)
    alpha = (0.2, 0.0, -0.3)[number // 9 % 3] if ACTS[act] == "lrelu" else 0.2
    return act, alpha, (1.0, 1.4, 0.7)[number % 3], (-1.0, 0.6)[number // 2 % 2]


def along(b, dim, ndim):
    return b.reshape([-1 if k == dim else 1 for k in range(ndim)])


def half(dtype):
    return dtype in (torch.bfloat16, torch.float16)


# Shape, dimension of the bias, channels_last
ARRAYS = [
    ((5, 24), 1, False), ((3, 7), 1, False), ((2, 8, 4, 4), 1, False), ((2, 16, 3, 5), 1, True), ((4100,), 0, False),
    ((2, 3, 5, 5), 1, True), ((2, 3, 5, 5), 1, False), ((4, 1, 9, 2), 1, False), ((6, 5), 0, False),
    ((3, 4, 6), 2, False), ((1, 64, 9, 11), 1, True),
]  # fmt: skip


def bias_act(ops, draw, dtype):
    for number, (shape, dim, last) in enumerate(ARRAYS * 5):
        x = draw(*shape, dtype=dtype, last=last)
        if number % 11 == 3:
            x = draw(x.numel() + 1, dtype=dtype)[1:].view(shape)  # not at a multiple of 16 bytes
        b = None if number % 5 == 4 else draw(shape[dim], dtype=dtype if number % 2 else torch.float32)
        act, alpha, gain, clamp = parameters(number)
        y = ops.bias_act(x, b, dim, act, alpha, gain, clamp)
        assert y.stride() == x.stride() and y.dtype == dtype
        z = x.double() if b is None else x.double() + along(b.double(), dim, x.ndim)
        close(y, reference.bias_act(z, None, dim, ACTS[act], alpha, gain, None if clamp < 0 else clamp))


def derivatives_of_bias_act(ops, draw, dtype):
    for number, (shape, dim, last) in enumerate(ARRAYS * (5 if dtype == torch.float32 else 2)):
        act, alpha, gain, clamp = parameters(number)
        x, gy, ggx = (draw(*shape, dtype=dtype, last=last) for _ in range(3))
        z = x.double().requires_grad_()
        g = gy.double().requires_grad_()
        y = reference.bias_act(z, None, dim, ACTS[act], alpha, gain, None if clamp < 0 else clamp)
        (gx,) = torch.autograd.grad(y, z, g, create_graph=True)
        reads_input = ACTS[act] == "swish" or (ACTS[act] == "lrelu" and alpha < 0)
        ref = x if reads_input else y.detach().to(dtype)
        slack = 40 if half(dtype) and ACTS[act] not in ("linear", "relu", "lrelu") else 3  # ref was rounded
        expected = gx.detach()
        if half(dtype) and clamp >= 0:  # results just below the clamp are rounded to it
            expected = expected * (y.detach().abs().to(dtype) < torch.tensor(clamp, dtype=dtype))

        close(ops.bias_act_grad(gy, ref, act, alpha, gain, clamp), expected, slack=slack)
        found, gb = ops.bias_act_grad_bias(gy, ref, dim, act, alpha, gain, clamp)
        close(found, expected, slack=slack)
        assert gb.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        sums = expected.movedim(dim, 0).reshape(shape[dim], -1)
        error = (gb.double() - sums.sum(1)).norm() / sums.abs().sum(1).norm()
        assert error < TOLERANCE[dtype] * slack

        if ACTS[act] in ("linear", "relu", "lrelu"):
            continue
        (second,) = torch.autograd.grad(gx, z, ggx.double())
        bend = ops.bias_act_grad2(ggx, gy, ref, act, alpha, gain, clamp).double()
        if not reads_input:  # then the operator differentiates by y
            bend = bend * torch.where(gy.double() == 0, 0, expected / gy.double())
            second = torch.where(expected == 0, 0, second)
        error = (bend - second).norm() / second.norm().clamp_min(1e-3)
        assert error < TOLERANCE[dtype] * 40


IMAGES = [
    ((2, 8, 4, 4), False), ((2, 8, 4, 4), True), ((3, 3, 5, 7), False), ((3, 3, 5, 7), True), ((1, 16, 24, 32), False),
    ((1, 16, 24, 32), True), ((2, 70, 3, 8), False), ((2, 264, 3, 3), True), ((1, 1, 1, 1), False),
    ((5, 33, 2, 1), True),
]  # fmt: skip
OPERANDS = [(True, "each", True), (True, "one", True), (True, None, False), (False, "each", False), (False, None, True)]


def epilogue_problem(draw, number, shape, last, dtype):
    """y, d, noise, b, some of them None, and the result in float64 for float64 leaves of them."""
    with_d, with_noise, with_b = OPERANDS[number % len(OPERANDS)]
    n, c, h, w = shape
    small = dtype if number % 3 == 0 else torch.float32
    y = draw(*shape, dtype=dtype, last=last)
    d = draw(n, c, dtype=torch.float64 if dtype == torch.float64 else torch.float32) if with_d else None
    d = d if d is None else d.sign() * (d.abs() + 0.3)  # recovering y from the result divides by it
    noise = draw(n if with_noise == "each" else 1, 1, h, w, dtype=small) if with_noise else None
    b = draw(c, dtype=small) if with_b else None
    wide = [None if t is None else t.double().requires_grad_() for t in (y, d, noise, b)]
    return (y, d, noise, b), wide


def modconv_epilogue(ops, draw, dtype):
    for number, (shape, last) in enumerate(IMAGES * 5):
        act, alpha, gain, clamp = parameters(number)
        operands, wide = epilogue_problem(draw, number, shape, last, dtype)
        out = ops.modconv_epilogue(*operands, act, alpha, gain, clamp)
        assert out.stride() == operands[0].stride() and out.dtype == dtype
        close(out, reference.modconv_epilogue(*wide, ACTS[act], alpha, gain, None if clamp < 0 else clamp).detach())


def modconv_epilogue_grad(ops, draw, dtype):
    for number, (shape, last) in enumerate(IMAGES * (6 if dtype == torch.float32 else 3)):
        act, alpha, gain, clamp = (
            (0, 0.2, 1.0, -1.0),
            (2, 0.2, 1.4, -1.0),
            (2, 0.2, 1.4, 2.0),
            (1, 0.2, 1.0, 1.0),
            (4, 0.2, 1.0, -1.0),
        )[number % 5]
        number += number // 10
        operands, wide = epilogue_problem(draw, number, shape, last, dtype)
        out = reference.modconv_epilogue(*wide, ACTS[act], alpha, gain, None if clamp < 0 else clamp)
        g = draw(*shape, dtype=dtype, last=last)
        present = [t for t in wide if t is not None]
        expected = iter(torch.autograd.grad(out, present, g.double()))
        expected = [None if t is None else next(expected) for t in wide]
        y = operands[0] if act not in (0, 2) or number % 2 else None  # else y is recovered from the result
        rounded = out.detach().to(dtype)
        found = ops.modconv_epilogue_grad(g, rounded, y, *operands[1:], act, alpha, gain, clamp)
        assert found[0].stride() == g.stride() and found[0].dtype == dtype
        for name, result, target, operand in zip("ydnb", found, expected, operands):
            if operand is None:
                assert result.numel() == 0
                continue
            assert result.shape == operand.shape
            scale = target.norm()
            if name != "y":  # sums in which much may cancel
                terms = g.double().abs() * (operands[0].double().abs() + 2) if name == "d" else g.double().abs()
                scale = terms.sum() / target.numel() ** 0.5
            slack = 30 if half(dtype) else 20 if name == "d" else 3
            assert (result.double() - target).norm() <= TOLERANCE[dtype] * slack * scale, name


def gradients_are_the_same_in_every_run(ops, draw, between=lambda: None):
    g, y, d, noise = draw(2, 70, 9, 8), draw(2, 70, 9, 8), draw(2, 70), draw(2, 1, 9, 8)
    for layout in (torch.contiguous_format, torch.channels_last):
        g, y = g.contiguous(memory_format=layout), y.contiguous(memory_format=layout)
        one = ops.modconv_epilogue_grad(g, y, y, d, noise, d[0], 2, 0.2, 1.0, -1.0)
        between()
        two = ops.modconv_epilogue_grad(g, y, y, d, noise, d[0], 2, 0.2, 1.0, -1.0)
        assert all(torch.equal(a, b) for a, b in zip(one, two))
