"""`prepare_data.py inspect` and `audit` as a user runs them: exit codes, tables, JSON, pages, refusals."""

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from faces.procedural.portrait import render_face

SCRIPT = Path(__file__).resolve().parents[2] / "prepare_data.py"


def run(*words, cwd=None):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=200
    )


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """PNG against JPEG, a broken file, and a name that could tear the terminal."""
    root = tmp_path_factory.mktemp("data") / "leaky"
    for i in range(50):
        file = root / ("real", "fake")[i % 2] / (f"{i}.jpg", f"{i}.png")[i % 2]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render_face(i, 64)).save(file)
    (root / "real" / "bad\n\x1b[31m.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    return root


def test_audit_tells_the_leak_its_meaning_and_its_repair(leaky):
    done = run("audit", leaky, "--quick")
    assert done.returncode == 1 and done.stderr.startswith("Next: ") and done.stderr.count("\n") == 1
    assert re.search(r"^FAIL +metadata +AUC 1\.000", done.stdout, re.MULTILINE)
    assert "format JPEG: 100 % of the reals, 0 % of the fakes" in done.stdout
    assert f"repair: python prepare_data.py normalise {leaky} {leaky}_even" in done.stdout
    assert "unreadable: real/bad\\n\\x1b[31m.jpg" in done.stdout and "\x1b" not in done.stdout
    assert done.stdout.rstrip().endswith("1 of 4 gates fail: metadata")


def test_what_is_next_fits_the_classes_and_keeps_the_labels(leaky):
    """A set of photos alone trains no detector, and folders of unknown names are refused without --labels."""
    photos = run("audit", leaky / "real", "--quick")
    assert photos.returncode == 0 and f"Next: python train_gan.py --data {leaky / 'real'}" in photos.stderr
    fakes = run("audit", leaky / "fake", "--quick")
    assert fakes.returncode == 0 and "Next: add photos" in fakes.stderr
    said = ("--labels", "real=real,fake=fake")
    named = run("audit", leaky, "--quick", *said)
    assert f"normalise {leaky} {leaky}_even {' '.join(said)}" in named.stderr


def test_audit_as_json_and_strict(leaky, tmp_path):
    found = json.loads(run("audit", leaky, "--quick", "--json").stdout)
    assert found["failed"] == ["metadata"] and found["passed"] is False and len(found["unreadable"]) == 1
    (metadata,) = [gate for gate in found["gates"] if gate["name"] == "metadata"]
    assert metadata["auc"]["auc"] == 1 and metadata["verdict"] == "fail" and metadata["repair"]
    for i in range(6):
        file = tmp_path / ("real", "fake")[i % 2] / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(render_face(i, 48)).save(file)
    args = ("audit", tmp_path, "--offline", "--face-model", tmp_path / "none.onnx")
    assert run(*args).returncode == 2  # a model that was named and is not there
    few = run("audit", tmp_path, "--offline", "--strict")
    assert few.returncode == 1 and "unclear" in few.stdout and "too few" in few.stdout


def test_bad_input_is_one_line():
    for words in (("audit", "nowhere"), ("inspect", "nowhere"), ("inspect", "demo", "--out", "x.png")):
        done = run(*words)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.links, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs["src"])
            assert attrs["alt"]
        self.links += [attrs[key] for key in ("src", "href", "srcset") if key in attrs]
        if tag not in ("meta", "img", "source", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_inspect_writes_a_page_of_its_own_and_numbers(leaky, tmp_path):
    done = run("inspect", leaky, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inspect-leaky.html", "inspect-leaky.json"]
    text = (tmp_path / "inspect-leaky.html").read_text()
    page = Page()
    page.feed(text)
    assert not page.open and len(page.images) >= 8
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    for source in page.images:
        Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))).verify()
    assert "bad\\n\\x1b[31m.jpg" in text and "\x1b" not in text
    numbers = json.loads((tmp_path / "inspect-leaky.json").read_text())
    assert numbers["formats"] == {"JPEG": {"real": 25, "fake": 0}, "PNG": {"real": 0, "fake": 25}}
    again = run("inspect", leaky, cwd=tmp_path)
    assert again.returncode == 2 and "not overwritten" in again.stderr


def test_inspect_without_labels(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        Image.fromarray(render_face(i, 40)).resize((40 + i, 30)).save(folder / f"{i}.webp")
    done = run("inspect", folder, "--out", tmp_path / "page.html", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "one class only" in (tmp_path / "page.html").read_text()
    audited = run("audit", folder, "--offline")
    assert audited.returncode == 0 and "one class only" in audited.stdout
