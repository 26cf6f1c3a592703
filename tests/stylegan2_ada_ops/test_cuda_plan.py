"""The plans of launches are written twice, in C++ for nvcc's kernels and in Python for NVRTC's: they may not differ."""

import ctypes
import random
from ctypes import c_int, c_longlong, c_uint

import pytest

from stylegan2_ada.ops.native import cuda_ops, cuda_plan
from stylegan2_ada.ops.native.cuda_plan import Divisor, EpilogueArgs, FinishArgs, PointwiseArgs, UpfirdnArgs
from tests.stylegan2_ada_ops import cuda_emulator

STRUCTURES = (Divisor, UpfirdnArgs, PointwiseArgs, EpilogueArgs, FinishArgs)
INT_MAX = 2**31 - 1

WRAPPERS = """
extern "C" void upfirdn2d(sg::UpfirdnArgs* a, int dtype, int aligned, int processors, sg::Launch* l) {
  *l = sg::plan_upfirdn2d(*a, dtype, aligned, processors);
}
extern "C" void bias_act(sg::PointwiseArgs* a, int order, int dtype, long long elements, long long size,
                         long long inner, sg::Launch* l) {
  *l = sg::plan_bias_act(*a, order, dtype, elements, size, inner);
}
extern "C" void epilogue(sg::EpilogueArgs* a, int gradient, int last, int dtype, int aligned, int processors,
                         sg::Launch* l) {
  *l = sg::plan_epilogue(*a, gradient, last, dtype, aligned, processors);
}
extern "C" void finish(sg::FinishArgs* a, sg::Launch* l) { *l = sg::plan_finish(*a); }
extern "C" void piece(long long start, long long total, long long size, long long inner, long long limit,
                      sg::Piece* p) {
  *p = sg::next_piece(start, total, size, inner, limit);
}
extern "C" void divisor(unsigned int d, sg::Divisor* to) { *to = sg::make_divisor(d); }
"""


class CLaunch(ctypes.Structure):
    _fields_ = [("kernel", c_int), ("grid", c_longlong), *((name, c_uint) for name in ("x", "y", "z"))]


class CPiece(ctypes.Structure):
    _fields_ = [(name, c_longlong) for name in cuda_plan.Piece._fields]


@pytest.fixture(scope="module")
def c(tmp_path_factory):
    """csrc/cuda_plan.h as a library, with what C++ knows of the structures."""
    text = '#include <stddef.h>\n#include "cuda_plan.h"\n' + WRAPPERS
    for structure in STRUCTURES:
        name = structure.__name__
        offsets = "".join(f"offsetof(sg::{name}, {field}), " for field, _ in structure._fields_)
        text += f'extern "C" const size_t layout_{name}[] = {{{offsets}sizeof(sg::{name})}};\n'
    source = tmp_path_factory.mktemp("plan") / "plan.cpp"
    source.write_text(text)
    return ctypes.CDLL(str(cuda_emulator.compile_cpp(source)))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_arguments_lie_where_the_kernels_look_for_them(c, structure):
    count = len(structure._fields_)
    layout = (ctypes.c_size_t * (count + 1)).in_dll(c, f"layout_{structure.__name__}")
    assert list(layout) == [
        *(getattr(structure, name).offset for name, _ in structure._fields_),
        ctypes.sizeof(structure),
    ]


def assert_same(source, dtype, found, theirs, mine, args):
    names = [name.removesuffix("f32") for name in cuda_ops.kernel_names(source, 0)]
    assert names[found.kernel] + cuda_plan.SUFFIXES[dtype] == mine.kernel
    assert mine.kernel in cuda_ops.kernel_names(source, dtype)
    assert (found.grid, (found.x, found.y, found.z)) == (mine.grid, mine.block)
    assert bytes(theirs) == bytes(args)
    assert mine.grid >= 1 and mine.block[0] * mine.block[1] * mine.block[2] <= 256 and mine.block[2] <= 64


def twin(args):
    return type(args).from_buffer_copy(args)


def test_upfirdn2d(c):
    rng = random.Random(1)
    for _ in range(3000):
        up, down = rng.choice([(1, 1), (2, 1), (1, 2), (3, 1), (2, 2)])
        taps, dtype = rng.choice([1, 2, 4, 4, 4, 12, 12]), rng.randrange(4)
        size = rng.choice([1, 3, 4, 8, 16, 33, 64, 257, 1024])
        a = UpfirdnArgs(
            planes=rng.choice([1, 2, 7, 64, 8192]),
            c=rng.choice([1, 1, 3, 8, 24, 64, 88, 512]),
            h=size,
            w=size + rng.choice([0, 1, 8]),
            oh=rng.choice([1, size, 2 * size]),
            ow=rng.choice([1, 5, size, 2 * size + 1]),
            up_x=up,
            up_y=rng.choice([up, up, 1]),
            down_x=down,
            down_y=down,
            pad_x=rng.randrange(-3, 9),
            pad_y=rng.randrange(-3, 9),
            taps_x=taps,
            taps_y=rng.choice([taps, taps, 3]),
            separable=rng.randrange(2),
        )
        theirs, found, aligned, processors = twin(a), CLaunch(), rng.randrange(2), rng.choice([1, 16, 132])
        c.upfirdn2d(ctypes.byref(theirs), dtype, aligned, processors, ctypes.byref(found))
        mine = cuda_plan.plan_upfirdn2d(a, dtype, bool(aligned), processors)
        assert_same("upfirdn2d", dtype, found, theirs, mine, a)


def test_bias_act(c):
    rng = random.Random(2)
    for _ in range(3000):
        size, inner = rng.choice([1, 3, 8, 64, 512, 2048]), rng.choice([1, 7, 16, 4096, 1 << 20])
        elements, order, dtype = (
            min(size * inner * rng.choice([1, 2, 33]), cuda_plan.LIMIT),
            rng.randrange(3),
            rng.randrange(4),
        )
        a = PointwiseArgs(b=rng.choice([0, 4096]), alpha=0.2, act=3, aligned=1)
        theirs, found = twin(a), CLaunch()
        c.bias_act(ctypes.byref(theirs), order, dtype, *map(c_longlong, (elements, size, inner)), ctypes.byref(found))
        mine = cuda_plan.plan_bias_act(a, order, dtype, elements, size, inner)
        assert_same("bias_act", dtype, found, theirs, mine, a)


def test_modconv(c):
    rng = random.Random(3)
    for _ in range(3000):
        c_, pixels = rng.choice([1, 3, 8, 33, 64, 264, 512]), rng.choice([1, 15, 16, 64, 1 << 14, 1 << 20])
        a = EpilogueArgs(n=rng.choice([1, 2, 16, 64]), c=c_, pixels=pixels)
        theirs, found, dtype = twin(a), CLaunch(), rng.randrange(4)
        options = [rng.randrange(2) for _ in range(3)]
        gradient, last, aligned = options
        processors = rng.choice([1, 16, 132])
        c.epilogue(ctypes.byref(theirs), gradient, last, dtype, aligned, processors, ctypes.byref(found))
        mine = cuda_plan.plan_epilogue(a, bool(gradient), bool(last), dtype, bool(aligned), processors)
        assert_same("modconv", dtype, found, theirs, mine, a)
        end = FinishArgs(n=a.n, c=a.c, pixels=a.pixels, gn=rng.choice([0, 64]), noise_each=rng.randrange(2))
        theirs, found = twin(end), CLaunch()
        c.finish(ctypes.byref(theirs), ctypes.byref(found))
        assert_same("modconv", dtype, found, theirs, cuda_plan.plan_finish(end, dtype), end)


def test_pieces_cover_a_tensor_once(c):
    rng = random.Random(4)
    for _ in range(60):
        outer, size, inner = rng.choice([1, 2, 9]), rng.choice([1, 3, 8, 70]), rng.choice([1, 5, 16, 1000])
        total, limit, start = outer * size * inner, rng.choice([8, 100, 4096]), 0
        while start < total:
            mine, theirs = cuda_plan.next_piece(start, total, size, inner, limit), CPiece()
            c.piece(*map(c_longlong, (start, total, size, inner, limit)), ctypes.byref(theirs))
            assert tuple(getattr(theirs, name) for name in mine._fields) == mine
            assert mine.start == start and 1 <= mine.elements <= limit
            # the first and the last element have the biases that the whole tensor gives them
            for i in (0, mine.elements - 1):
                assert mine.channel + i // mine.inner % mine.size == (start + i) // inner % size
            start += mine.elements
        assert start == total


def test_division_by_multiplication(c):
    rng = random.Random(5)
    divisors = [1, 2, 3, 5, 7, 8, 9, 255, 256, 257, 4096, 65537, 2**30, 2**30 + 1, INT_MAX]
    for d in divisors + [rng.randrange(1, 2**31) >> rng.randrange(31) or 1 for _ in range(500)]:
        theirs = Divisor()
        c.divisor(d, ctypes.byref(theirs))
        assert bytes(theirs) == bytes(cuda_plan.make_divisor(d))
        numbers = [0, 1, d - 1, d, d + 1, 2 * d - 1, INT_MAX // d * d, INT_MAX // d * d - 1, INT_MAX]
        for n in numbers + [rng.randrange(2**31) for _ in range(20)]:
            if 0 <= n <= INT_MAX:
                assert (n if d == 1 else (n * theirs.factor >> 32) >> theirs.shift) == n // d
