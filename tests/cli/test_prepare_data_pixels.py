"""`prepare_data.py normalise` and `pack` as a user runs them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import prepare_data
from faces.finding.yunet import FILE_NAME
from tests.program import Program

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments):
    """In this process: exit code, output, errors."""
    return CliRunner().invoke(Program(prepare_data.main), [str(a) for a in arguments])


def command(*arguments) -> list[str]:
    return [sys.executable, str(ROOT / "prepare_data.py"), *map(str, arguments)]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Path:
    """200 pictures of both labels that take a while."""
    root = tmp_path_factory.mktemp("noisy") / "set"
    rng = np.random.default_rng(0)
    for label in ("real", "fake"):
        (root / label).mkdir(parents=True)
        for i in range(100):
            image = Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8))
            image.save(
                root / label / f"{i}.{'jpg' if label == 'real' else 'png'}", **({"quality": 40} if i % 2 else {})
            )
    return root


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.jpg")}


def test_killed_and_started_again(noisy, tmp_path):
    arguments = ("normalise", noisy, tmp_path / "out", "--resolution", 128, "--workers", 1)
    job = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until and len(list(tmp_path.glob("out/*/*.jpg"))) < 20:
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    before = digests(tmp_path / "out")
    assert 20 <= len(before)
    for name in before:
        with Image.open(tmp_path / "out" / name) as image:
            image.load()
    done = call(*arguments)
    assert done.exception is None and "real: 100 written" in done.stdout and "fake: 100 written" in done.stdout
    after = digests(tmp_path / "out")
    assert len(after) == 200 and before.items() <= after.items()
    assert not list((tmp_path / "out").rglob(".*"))
    other = call("normalise", noisy, tmp_path / "whole", "--resolution", 128)
    assert other.exception is None and digests(tmp_path / "whole") == after


def test_what_is_said(noisy, tmp_path):
    (tmp_path / "in/real").mkdir(parents=True)
    (tmp_path / "in/fake").mkdir()
    for i in range(4):
        (tmp_path / f"in/real/{i}.jpg").write_bytes((noisy / f"real/{i}.jpg").read_bytes())
        Image.open(noisy / f"fake/{i}.png").resize((50, 50)).save(tmp_path / f"in/fake/{i}.png")
    (tmp_path / "in/real/bad\n\x1b[2J.jpg").write_bytes(b"x")
    done = call("normalise", tmp_path / "in", tmp_path / "out", "--resolution", 100)
    assert done.exception is None
    assert "real: 4 written, 1 skipped (unusable)" in done.stdout and "fake: 4 written, 4 enlarged" in done.stdout
    assert "skipped real/bad\\n\\x1b[2J.jpg: not an image" in done.stderr
    assert "warning: 0% of the real, 100% of the fake" in done.stderr and "--through 48" in done.stderr
    for arguments in (("normalise", tmp_path / "in", tmp_path / "o\nut"),
                      ("pack", tmp_path / "in", tmp_path / "o\nut.zip", "--resolution", 32)):  # fmt: skip
        assert "\\nut" in call(*arguments).stdout, "a name with a newline in it is on one line"
    for arguments, words in (
        (("normalise", tmp_path / "in", tmp_path / "in/out"), "lies in the source"),
        (("normalise", tmp_path / "in", noisy), "not empty"),
        (("normalise", tmp_path / "in", tmp_path / "x", "--face-model", "haar"), "--face-model haar: faces are only"),
        (
            ("audit", tmp_path / "in", "--quick", "--face-model", "haar"),
            "--face-model haar: --quick looks at no pixels",
        ),
        (("normalise", tmp_path / "in", tmp_path / "x", "--quality", "best"), "75-95"),
        (("normalise", tmp_path / "in", tmp_path / "x", "--quality", "95-75"), "the lower first"),
        (("normalise", tmp_path / "in", tmp_path / "x", "--align", "ffhq", "--face-model", "no.onnx"), "--face-model"),
        (("pack", tmp_path / "in", tmp_path / "x.tar", "--resolution", 64), "end in .zip"),
    ):
        failed = call(*arguments)
        assert failed.exit_code == 2 and words in failed.stderr, failed.stderr
        assert not (tmp_path / "x").exists()


def begun(job: list[str], sign) -> subprocess.Popen:
    """A process that has got so far that `sign()` is true."""
    process = subprocess.Popen(job, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None and not sign():
        time.sleep(0.01)
    return process


def test_told_to_end_it_tidies_up_and_two_do_not_mix(noisy, tmp_path):
    size = ("--resolution", 1024, "--workers", 1)
    job = begun(command("normalise", noisy, tmp_path / "out", *size), lambda: list(tmp_path.glob("out/*/*.jpg")))
    second = call("normalise", noisy, tmp_path / "out", *size)
    assert "another normalise is writing into it" in second.stderr
    job.terminate()
    assert job.wait() == 143
    job = begun(
        command("pack", noisy, tmp_path / "faces.zip", *size),
        lambda: any(file.stat().st_size for file in tmp_path.glob(".faces.zip.*.tmp")),
    )
    job.terminate()
    assert job.wait() == 143
    assert not list(tmp_path.rglob(".*")) and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(os.name == "nt", reason="no limits of file sizes")
def test_a_disk_that_takes_no_more_is_one_line(noisy, tmp_path):
    import resource

    for arguments in (
        ("normalise", noisy, tmp_path / "out", "--resolution", 64),
        ("pack", noisy, tmp_path / "x.zip", "--resolution", 64),
        ("split", noisy, "--out", tmp_path / "x.csv"),
    ):
        done = subprocess.run(
            command(*arguments), capture_output=True, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
        )  # fmt: skip
        assert done.returncode == 2 and str(tmp_path) in done.stderr
        assert "larger than" in done.stderr or "too large" in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not list(tmp_path.rglob(".*.tmp")) and not list(tmp_path.glob("x.*"))


def test_errors_are_one_line_and_two(tmp_path):
    done = subprocess.run(command("normalise", "nowhere", tmp_path / "x"), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: nowhere: no such folder")
    assert len(done.stderr.splitlines()) == 1


def test_help_answers_at_once():
    for name in ("normalise", "pack"):
        code = f"import sys; sys.argv = ['x', '{name}', '--help']; import runpy\n"
        code += f"try: runpy.run_path({str(ROOT / 'prepare_data.py')!r}, run_name='__main__')\n"
        code += "finally: print(sorted({'torch', 'cv2', 'numpy', 'PIL'} & set(sys.modules)))"
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
        assert done.returncode == 0 and done.stdout.endswith("[]\n") and "--resolution" in done.stdout


def test_faces_are_cut_out(shared_dir, tmp_path):
    model = shared_dir / "weights" / FILE_NAME
    (tmp_path / "in").mkdir()
    for i, photo in enumerate(sorted((shared_dir / "data/foreign_real_utkface/real").iterdir())[:6]):
        (tmp_path / f"in/{i}{photo.suffix}").write_bytes(photo.read_bytes())
    Image.new("RGB", (200, 200), (90, 90, 90)).save(tmp_path / "in/wall.png")
    arguments = ("normalise", tmp_path / "in", tmp_path / "out", "--align", "ffhq", "--resolution", 96)
    done = call(*arguments, "--face-model", model)
    assert done.exception is None and "real: 6 written" in done.stdout and "1 skipped (no face)" in done.stdout
    assert "face detector: yunet-2023mar" in done.stdout and "wall.png: no face found by yunet-2023mar" in done.stderr
    os.environ.pop("FACES_FACE_MODEL", None)
    env = {"FACES_CACHE": str(tmp_path / "cache")}
    haar = CliRunner(env=env).invoke(
        prepare_data.main, [*map(str, arguments[:2]), str(tmp_path / "haar"), *map(str, arguments[3:]), "--offline"]
    )
    assert "Haar cascade, which finds fewer" in haar.stderr and "face detector: haar" in haar.stdout


def test_train_gan_takes_an_archive(noisy, tmp_path, train):
    done = call("pack", noisy, tmp_path / "faces.zip", "--resolution", 16)
    assert done.exception is None and "100 real, 100 fake, no classes at 16 px" in done.stdout
    with zipfile.ZipFile(tmp_path / "faces.zip") as archive:
        assert "real/00000/img00000199.png" in archive.namelist() and archive.testzip() is None
    trained = train("--data", tmp_path / "faces.zip")
    assert trained.code == 0, trained.err
