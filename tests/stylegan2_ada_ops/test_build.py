"""The native library is built once, never poisoned, and its absence is told in one line."""

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stylegan2_ada.ops.native import build, toolchain
from stylegan2_ada.ops.native.toolchain import BuildError

ROOT = Path(__file__).resolve().parents[2]
SOURCE = '#include "answer.h"\nextern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }\n'


def has_compiler() -> bool:
    try:
        toolchain.compiler()
        return True
    except BuildError:
        return False


pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler on this machine")


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A cache folder of its own, and sources that compile in no time."""
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "answer.cpp").write_text(SOURCE)
    (folder / "other.cpp").write_text("int other() { return 1; }\n")
    (folder / "answer.h").write_text("#define ANSWER 42\n")
    monkeypatch.setattr(build, "SOURCES", folder)
    monkeypatch.setenv("STYLEGAN_OPS_CACHE", str(tmp_path / "cache"))
    cached = [build.cache_folder, toolchain.compiler, toolchain.ninja]
    for function in cached:
        function.cache_clear()
    yield folder
    for function in cached:
        function.cache_clear()


def answer(library: build.Library) -> int:
    code = f"import ctypes; print(ctypes.CDLL({str(library.path)!r}).answer())"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def libraries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.so"))


def test_built_once_and_again_for_what_changes(sources, tmp_path):
    first = build.build("cpu")
    assert first.built_now and answer(first) == 42
    again = build.build("cpu")
    assert not again.built_now and again.path == first.path and again.seconds == pytest.approx(first.seconds, abs=0.01)
    objects = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "objects").iterdir()}
    (sources / "other.cpp").write_text("int other() { return 2; }\n")
    changed = build.build("cpu")
    assert changed.built_now and changed.path != first.path
    assert all(path.stat().st_mtime_ns == at for path, at in objects.items())  # answer.cpp was not compiled again
    (sources / "answer.h").write_text("#define ANSWER 43\n")
    assert answer(build.build("cpu")) == 43
    assert answer(first) == 42
    assert not list((tmp_path / "cache").glob("*.tmp-*"))


def test_another_processor_or_torch_is_another_library(sources, monkeypatch):
    first = build.build("cpu")
    monkeypatch.setattr(toolchain, "cpu_features", lambda: "flags: sse2")
    second = build.build("cpu")
    assert second.built_now and second.path != first.path
    monkeypatch.setattr(build.torch, "__version__", "99.0")
    assert build.build("cpu").path not in (first.path, second.path)


def _build_and_report(queue, start):
    start.wait()
    queue.put(build.build("cpu").built_now)


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_of_several_processes_one_builds(sources, tmp_path):
    context = multiprocessing.get_context("fork")
    queue, start = context.Queue(), context.Event()
    workers = [context.Process(target=_build_and_report, args=(queue, start)) for _ in range(4)]
    for worker in workers:
        worker.start()
    start.set()
    built = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert sorted(built) == [False, False, False, True]
    assert len(libraries(tmp_path / "cache")) == 1


def test_a_killed_build_leaves_nothing_behind_that_matters(sources, tmp_path, monkeypatch):
    slow = tmp_path / "slow"
    slow.write_text('#!/bin/sh\ncase "$*" in *-dM*) ;; *) touch "$0.started"; sleep 30;; esac\nexec c++ "$@"\n')
    slow.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from stylegan2_ada.ops.native import build;"
        "build.SOURCES = Path(sys.argv[1]); build.build('cpu')"
    )
    environment = {**os.environ, "CXX": str(slow)}
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(sources)], cwd=ROOT, env=environment, start_new_session=True
    )
    deadline = time.time() + 60
    while not (tmp_path / "slow.started").exists():
        assert time.time() < deadline and child.poll() is None
        time.sleep(0.05)
    os.killpg(child.pid, 9)
    child.wait()
    cache = tmp_path / "cache"
    assert list(cache.glob("*.tmp-*")) and not libraries(cache)
    monkeypatch.setattr(build, "_STALE_S", -1.0)  # as if the scratch folder were old
    assert answer(build.build("cpu")) == 42
    assert not list(cache.glob("*.tmp-*"))


def test_a_damaged_library_is_built_anew(sources):
    library = build.build("cpu").path
    library.write_bytes(library.read_bytes()[:1000])
    again = build.build("cpu")
    assert again.built_now and again.path == library and answer(again) == 42
    history = library.parent / "history.json"
    history.write_text("{")
    assert build.build("cpu").built_now
    # Damage that checksums do not show is found out by loading; the caller says so.
    assert build.build("cpu", damaged=True).built_now


def test_damaged_objects_are_compiled_anew(sources, tmp_path):
    library = build.build("cpu").path
    for damage in (b"", b"no object"):
        for path in (tmp_path / "cache" / "objects").iterdir():
            path.write_bytes(damage)
        library.unlink()
        assert answer(build.build("cpu")) == 42


def test_an_error_of_the_compiler_is_one_line_and_the_rest_in_a_file(sources):
    (sources / "other.cpp").write_text("int other() { return nonsense; }\n")
    with pytest.raises(BuildError) as error:
        build.build("cpu")
    message = str(error.value)
    assert "nonsense" in message and "\n" not in message
    assert "nonsense" in Path(message.rsplit(" ", 1)[1]).read_text()
    (sources / "other.cpp").write_text("int other() { return 0; }\n")
    assert build.build("cpu").built_now


def test_without_a_compiler_what_was_built_before_is_used(sources, monkeypatch):
    library = build.build("cpu").path
    monkeypatch.setenv("CXX", "no-such-compiler")
    toolchain.compiler.cache_clear()
    assert build.build("cpu").path == library
    (sources / "answer.h").write_text("#define ANSWER 1\n")
    with pytest.raises(BuildError, match="CXX=no-such-compiler is not a program: install g"):
        build.build("cpu")


def test_a_cache_that_cannot_be_written_is_replaced(sources, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STYLEGAN_OPS_CACHE", str(tmp_path / "file" / "cache"))
    build.cache_folder.cache_clear()
    folder = build.cache_folder()
    assert folder.is_dir() and folder.name.startswith("stylegan2_ada_ops-")
    folder.rmdir()


@pytest.mark.parametrize(
    "environment,ending",
    [
        ({"STYLEGAN_OPS_CACHE": "/a"}, ""),
        ({"TORCH_EXTENSIONS_DIR": "/b"}, "stylegan2_ada"),
        ({"XDG_CACHE_HOME": "/c"}, "stylegan2_ada_ops"),
    ],
)
def test_where_the_cache_is(environment, ending, tmp_path, monkeypatch):
    for name in ("STYLEGAN_OPS_CACHE", "TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(tmp_path / value[1:]))
        expected = tmp_path / value[1:] / ending
    build.cache_folder.cache_clear()
    try:
        assert build.cache_folder() == expected
    finally:
        build.cache_folder.cache_clear()


USE = """
import warnings, torch
from stylegan2_ada.ops import reference
from stylegan2_ada.ops.bias_act import bias_act
from stylegan2_ada.ops.upfirdn2d import fir_taps, upfirdn2d
x, b = torch.randn(2, 3, 8, 8), torch.randn(3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y = bias_act(x, b, act="lrelu")
    upfirdn2d(x, fir_taps([1, 3, 3, 1]), up=2)
torch.testing.assert_close(y, reference.bias_act(x, b, 1, "lrelu", 0.2, 2 ** 0.5, None))
import json
print(json.dumps([str(w.message) for w in caught]))
"""


def use(tmp_path, **environment):
    environment = {**os.environ, "STYLEGAN_OPS_CACHE": str(tmp_path / "cache"), "PATH": str(tmp_path), **environment}
    environment.pop("CXX", None)
    return subprocess.run([sys.executable, "-c", USE], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_without_a_compiler_one_warning_and_right_results(tmp_path):
    done = use(tmp_path, STYLEGAN_OPS="")
    assert done.returncode == 0, done.stderr
    (warning,) = json.loads(done.stdout)
    assert "slower PyTorch operations are used on cpu: no C++ compiler" in warning and "\n" not in warning
    assert "install g++" in warning
    done = use(tmp_path, STYLEGAN_OPS="torch")
    assert done.returncode == 0 and json.loads(done.stdout) == []


def test_native_without_a_compiler_is_an_error(tmp_path):
    done = use(tmp_path, STYLEGAN_OPS="native")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "BuildError: STYLEGAN_OPS=native, but there are no native cpu ops: no C++ compiler" in last


def test_a_library_that_does_not_load_is_built_anew(sources):
    """A file that is no library but has the right checksum: found out at loading, in a process of its own."""
    library = build.build("cpu").path
    library.write_bytes(b"no library")
    history = json.loads((library.parent / "history.json").read_text())
    history["sha256"] = hashlib.sha256(b"no library").hexdigest()
    (library.parent / "history.json").write_text(json.dumps(history))
    code = (
        "import sys; from pathlib import Path; from stylegan2_ada.ops import native;"
        "from stylegan2_ada.ops.native import build;"
        "build.SOURCES = Path(sys.argv[1]); print(native.status('cpu').native)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(sources)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
    assert answer(build.build("cpu")) == 42


def test_the_compiler_tells_its_instruction_sets():
    cxx = toolchain.compiler()
    assert cxx.version and cxx.flags[0] == "-O3"
    if "avx2" in toolchain.cpu_features():
        assert "avx2" in cxx.instruction_sets and "fma" in cxx.instruction_sets
