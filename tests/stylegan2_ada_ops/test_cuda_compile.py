"""All CUDA kernels compile for all GPUs: by NVRTC out of PyTorch's wheels, and by nvcc where there is one."""

import os
import re
import subprocess
import sys
from functools import cache

import pytest

from stylegan2_ada.ops.native import cuda_launch, cuda_ops, nvrtc, toolchain
from stylegan2_ada.ops.native.toolchain import BuildError

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
QUICK = (*nvrtc.OPTIONS, "--Ofast-compile=max")  # takes a third of the time; only newer versions know it


def need_nvrtc(architecture=None):
    try:
        if architecture is not None and architecture not in nvrtc.architectures():
            pytest.skip(f"NVRTC {nvrtc.version()} does not know sm_{architecture}")
    except BuildError as error:
        pytest.skip(str(error))


@cache
def quick() -> tuple[str, ...]:
    try:
        nvrtc.compile_text("bias_act", f"sm_{nvrtc.architectures()[0]}", 0, QUICK)
        return QUICK
    except BuildError:
        return nvrtc.OPTIONS


@pytest.mark.parametrize(
    "architecture", [pytest.param(a, marks=() if a in (75, 120) else pytest.mark.slow) for a in ARCHITECTURES]
)
def test_every_kernel_compiles(architecture):
    need_nvrtc(architecture)
    dtypes = (0, 1, 2) if architecture in (86, 89) else (0, 1, 2, 3)  # float16: below
    for source in cuda_launch.SOURCES:
        for dtype in dtypes:
            code = nvrtc.compile_text(source, f"sm_{architecture}", dtype, quick()).code
            names = {name.encode() for name in cuda_ops.kernel_names(source, dtype)}
            assert set(re.findall(rb"\.text\.((?:bias_act|modconv|upfirdn2d)_\w+)\0", code)) == names


def test_newer_gpus_get_ptx_and_older_ones_a_reason():
    need_nvrtc()
    newest, oldest = nvrtc.architectures()[-1], nvrtc.architectures()[0]
    assert nvrtc.target((newest // 10 + 9, 0)) == f"compute_{newest}"
    with pytest.raises(BuildError, match="has no code for GPUs of compute capability"):
        nvrtc.target((oldest // 10 - 2, 0))
    assert b".entry bias_act_f32" in nvrtc.compile_text("bias_act", f"compute_{newest}", 0, quick()).code


def test_the_cache_notices_damage(tmp_path, monkeypatch):
    need_nvrtc()
    monkeypatch.setattr(nvrtc, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(nvrtc, "OPTIONS", quick())
    target = f"sm_{nvrtc.architectures()[0]}"
    code = nvrtc.kernels("bias_act", target, 0)
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr(nvrtc, "compile_text", lambda *a: pytest.fail("it was kept"))
    assert nvrtc.kernels("bias_act", target, 0) == code
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    monkeypatch.undo()
    monkeypatch.setattr(nvrtc, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(nvrtc, "OPTIONS", quick())
    assert nvrtc.kernels("bias_act", target, 0) == code
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_an_error_in_a_kernel_is_one_line(monkeypatch):
    need_nvrtc()
    monkeypatch.setattr(nvrtc, "text", lambda name: {name: "int broken("})
    with pytest.raises(BuildError, match=r"^NVRTC does not compile bias_act\.cu for sm_\d+: .*error") as caught:
        nvrtc.compile_text("bias_act", f"sm_{nvrtc.architectures()[0]}", 0)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_registers_suffice(architecture):
    """As compiled for use: no array was moved to memory, and two blocks find room on a multiprocessor.

    The compiler may put a word or two outside of the loops aside to make room for a further block."""
    need_nvrtc(architecture)
    options = (*nvrtc.OPTIONS, "--ptxas-options=-v")
    for source in cuda_launch.SOURCES:
        for dtype in range(4):
            log = nvrtc.compile_text(source, f"sm_{architecture}", dtype, options).log
            registers, spills, kernel, function = {}, {}, "", ""
            for line in log.splitlines():
                if found := re.search(r"Compiling entry function '(\w+)'", line):
                    kernel = found[1]
                elif found := re.search(r"Function properties for (\w+)", line):
                    function = found[1]
                elif found := re.search(r"(\d+) bytes spill stores", line):
                    spills[function] = int(found[1])
                elif found := re.search(r"Used (\d+) registers", line):
                    registers[kernel] = int(found[1])
            assert set(registers) == set(cuda_ops.kernel_names(source, dtype))
            assert {name: count for name, count in spills.items() if count > 16} == {}
            assert {name: count for name, count in registers.items() if count > 128} == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nvcc_builds_a_library_that_loads_without_a_gpu(tmp_path):
    try:
        toolchain.nvcc()
        toolchain.compiler()
    except BuildError as error:
        pytest.skip(str(error))
    script = """
import torch
from stylegan2_ada.ops.native import build, cuda_ops
torch.ops.load_library(str(build.build("cuda").path))
for operator in cuda_ops.OPERATORS:
    name = f"stylegan2_ada::{operator.__name__}"
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"), name
"""
    environment = {**os.environ, "STYLEGAN_OPS_CACHE": str(tmp_path), "TORCH_CUDA_ARCH_LIST": "9.0"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
