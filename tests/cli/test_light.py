"""A verdict takes numpy, Pillow, OpenCV, ONNX Runtime and click: no PyTorch, and no word to anybody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from discriminator.engine import open_engine, open_judge
from discriminator.files import judge_files
from discriminator.options import SHIPPED, JudgeOptions
from faces.finding import yunet
from faces.procedural.portrait import render_face
from tests import light

BUNDLED = yunet.BUNDLED
SAME = ("file", "status", "verdict", "threshold", "note", "face")
PARITY = 1e-4  # of a probability: what `detect.py export` lets pass


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    """Drawn faces: small, of the network's side, and one in a larger picture."""
    folder = tmp_path_factory.mktemp("photos")
    for seed, side in ((1, 96), (2, 256), (3, 256)):
        Image.fromarray(render_face(seed, side)).save(folder / f"{seed}.png")
    large = Image.new("RGB", (640, 480), (90, 110, 130))
    large.paste(Image.fromarray(render_face(4, 256)), (60, 90))
    large.save(folder / "large.jpg", quality=92)
    return sorted(map(str, folder.iterdir()))


@pytest.fixture(scope="module")
def with_torch():
    """The shipped detector's judge by PyTorch, as a checkout finds faces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("faces.finding.yunet.BUNDLED", BUNDLED)
        patch.delenv("FACES_FACE_MODEL", raising=False)
        return open_judge(open_engine(SHIPPED[0], runtime="torch"), JudgeOptions())


def test_the_same_verdicts_without_pytorch(photos, with_torch, tmp_path):
    done = light.run(["detect.py", *photos, "--json"], tmp_path)
    assert done.returncode in (0, 1) and done.stderr == "", done.stderr
    told = json.loads(done.stdout)
    assert told["runtime"] == "onnx" and told["faces"]["finder"].startswith("yunet") and len(told["results"]) >= 4
    for here, there in zip(told["results"], judge_files(with_torch, photos), strict=True):
        row = there.to_dict()
        assert here["probability"] == pytest.approx(row["probability"], abs=PARITY)
        assert [here[name] for name in SAME] == [row[name] for name in SAME]
    assert list(tmp_path.iterdir()) == [], "a verdict leaves nothing in the home folder"


def test_photos_of_people(shared_dir, with_torch, tmp_path):
    found = [str(shared_dir / "cases" / "faces" / name) for name in ("0_orig.png", "square_portrait_plus3.jpg")]
    if not all(map(os.path.isfile, found)):
        pytest.skip("these photos are not there")
    told = json.loads(light.run(["detect.py", *found, "--json"], tmp_path).stdout)["results"]
    rows = [result.to_dict() for result in judge_files(with_torch, found)]
    assert [row["verdict"] for row in told] == [row["verdict"] for row in rows] and told[0]["verdict"] == "FAKE"
    assert [row["probability"] for row in told] == pytest.approx([row["probability"] for row in rows], abs=PARITY)


def test_the_page_without_pytorch(photos, tmp_path):
    argv = light.command(["serve.py", "--port", "0", "--threads", "1"], but=["web"])
    process = subprocess.Popen(argv, cwd=tmp_path, env=light.environment(tmp_path), stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("http://"):
                break
        assert lines and lines[-1].startswith("http://"), lines
        url = lines[-1].split()[0]
        head = {"Content-Type": "image/png"}
        request = urllib.request.Request(f"{url}v1/detect", Path(photos[1]).read_bytes(), head, method="POST")
        (row,) = json.load(urllib.request.urlopen(request, timeout=60))["results"]
        model = json.load(urllib.request.urlopen(f"{url}v1/model", timeout=60))
        assert "gradcam" not in json.dumps(model.get("maps", [])), "no map is offered that needs PyTorch"
        assert "html" in urllib.request.urlopen(url, timeout=60).read().decode()[:40].lower()
    finally:
        process.kill()
        process.wait()
    done = light.run(["detect.py", photos[1], "--json"], tmp_path)
    (same,) = json.loads(done.stdout)["results"]
    assert row["probability"] == same["probability"] and row["verdict"] == same["verdict"]


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["train_gan.py", "--data", "demo"], "train"),
        (["train_detector.py", "--data", "demo"], "train"),
        (["synth.py", "--n", "3"], "train"),
        (["prepare_data.py", "audit", "."], "train"),
        (["evaluate.py", "detector", "x", "--data", "demo"], "train"),
        (["detect.py", "export", "--onnx", "x.onnx"], "train"),
        (["detect.py", "a.png", "--runtime", "torch"], "train"),
        (["detect.py", "a.mp4"], "video"),
        (["detect.py", "a.heic"], "heif"),
        (["serve.py"], "web"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_is_missing_says_its_extra(words, extra, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(200))
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    done = light.run(words, tmp_path)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert len(errors) == 1 and f"comes with the extra {extra}: pip install -e '.[{extra}]'" in errors[0], done.stderr


def test_help_needs_nothing(tmp_path):
    code = "import sys, runpy\nfor s in sys.argv[2:]:\n  sys.argv[1:] = ['--help']\n  try: runpy.run_path(s)\n"
    code += "  except SystemExit: pass\nprint('whole')"
    scripts = [light.ROOT / f"{name}.py" for name in ("detect", "serve", "train_gan", "synth", "evaluate", "demo")]
    done = light.run(["-c", code, *scripts], tmp_path)
    assert done.stdout.strip().endswith("whole"), done.stderr


@pytest.mark.slow
@pytest.mark.network
def test_a_real_light_environment(photos, tmp_path):
    """`bootstrap.py detect` in a copy of the checkout: what it installs, and that it judges."""
    place = tmp_path / "checkout"
    shutil.copytree(light.ROOT, place, ignore=shutil.ignore_patterns(".*", "runs", "tests", "docs", "__pycache__"))
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "bootstrap.py", "detect", *photos, "--json"], cwd=place, env=light.environment(home),
        capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    told = json.loads(done.stdout[done.stdout.index("{") :])
    assert told["runtime"] == "onnx" and len(told["results"]) >= 4
    installed = {path.name for path in (place / ".venv-light" / "lib").glob("*/site-packages/*")}
    assert "onnxruntime" in installed and "torch" not in installed
    size = sum(path.lstat().st_size for path in (place / ".venv-light").rglob("*"))
    assert size < 700e6, f"{size / 1e6:.0f} MB"
