"""Nothing in the repository belongs to one machine, and no file of others slipped in."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from faces.finding import yunet

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "host of a package index": re.compile(r"pypi\.|pythonhosted|anaconda\.(org|com)|download\.pytorch\."),
    "path of one machine": re.compile(r"(?<![\w.$}/-])/(work|root|home|Users|scratch|opt/pypi|opt/wheels)/"),
    "credential": re.compile(r"(ghp|hf|sk|pypi)[_-][A-Za-z0-9]{20,}|KAGGLE_KEY\s*=\s*\w"),
}
MAX_BYTES = 2_000_000


def tracked_files() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: which files belong to the project cannot be told")
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_nothing_of_one_machine():
    found = []
    for path in tracked_files():
        if path == Path(__file__).resolve():
            continue  # the patterns themselves
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image
        for number, line in enumerate(text.splitlines(), start=1):
            found += [f"{path.relative_to(ROOT)}:{number}: {what}" for what, r in FORBIDDEN.items() if r.search(line)]
    assert not found, "\n".join(found)


def test_patterns_find_what_they_should():
    hits = ["https://pypi.", "/work/main", "open('/root/x')", "cd /home/me/x", "ghp_" + "a" * 30]
    assert all(any(pattern.search(hit) for pattern in FORBIDDEN.values()) for hit in hits)
    for harmless in ("../shared/data", "a/home/b", "$HOME/home/x", "framework/root/x", "/usr/local/cuda"):
        assert not any(pattern.search(harmless) for pattern in FORBIDDEN.values()), harmless


@pytest.mark.bundled
def test_no_weights_no_archives_no_large_files():
    shipped = {ROOT / "models" / name for name in ("detector.safetensors", "detector.onnx")}
    assert all(path.stat().st_size <= 20_000_000 for path in shipped)
    card = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() in card for path in shipped)
    shipped.add(yunet.BUNDLED)
    assert hashlib.sha256(yunet.BUNDLED.read_bytes()).hexdigest() == yunet.SHA256
    assert "MIT License" in yunet.BUNDLED.with_suffix(".LICENSE").read_text(encoding="utf-8")
    # runs of noise pictures, as an older version left them
    old = {path for path in tracked_files() if (ROOT / "tests" / "old_runs") in path.parents}
    assert sum(path.stat().st_size for path in old) <= 4_000_000
    for path in set(tracked_files()) - shipped - old:
        assert path.stat().st_size <= MAX_BYTES, f"{path.relative_to(ROOT)} is larger than {MAX_BYTES} bytes"
        assert path.suffix not in {".pt", ".pth", ".pkl", ".onnx", ".safetensors", ".zip", ".npz"}, path.name
