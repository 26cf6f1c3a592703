"""Fixtures every room's tests share: where the development data lies, and the recorded golden numbers."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
# `Next:` writes `python` where the shell would find this one, as in an active environment
os.environ["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", "")))
if str(ROOT) not in sys.path:  # so that `pytest` works as well as `python -m pytest`
    sys.path.insert(0, str(ROOT))


def _limit_threads() -> None:
    """One thread per test process: several processes share the machine, and sums come out the same everywhere."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


_limit_threads()


def _heed_signals() -> None:
    """A shell's background job ignores Ctrl+C, `nohup` a hang-up, and so does all that is started from there: what
    a test starts is to meet signals as in a terminal."""
    if threading.current_thread() is not threading.main_thread():
        return  # only there can it be said
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


_heed_signals()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with development data (env FACES_SHARED, else ../shared beside the repository); skips without it."""
    path = Path(os.environ.get("FACES_SHARED") or ROOT.parent / "shared")
    if not path.is_dir():
        pytest.skip(f"no development data at {path} (set FACES_SHARED to its folder)")
    return path


@pytest.fixture(scope="session")
def golden(shared_dir: Path):
    """`golden(name)` -> (parsed <name>.json, dict of the arrays of <name>.npz); skips where a file is absent.

    A name with only one of the two files (`uncond32_io`, …) gives None for the other."""
    folder = shared_dir / "golden"

    def load(name: str) -> tuple[dict | list | None, dict[str, np.ndarray] | None]:
        text, arrays = folder / f"{name}.json", folder / f"{name}.npz"
        if not text.is_file() and not arrays.is_file():
            pytest.skip(f"no golden numbers {name}.json or {name}.npz in {folder}")
        cases = json.loads(text.read_text(encoding="utf-8")) if text.is_file() else None
        if not arrays.is_file():
            return cases, None
        with np.load(arrays, allow_pickle=False) as npz:
            return cases, {key: npz[key] for key in npz.files}

    return load


@pytest.fixture(autouse=True)
def without_bundled_yunet(request, monkeypatch):
    """Where tests speak of faces found without YuNet, or of its download, the checkout's file must not help; a test
    that wants it says `@pytest.mark.bundled`."""
    if "bundled" not in request.keywords:
        monkeypatch.setattr("faces.finding.yunet.BUNDLED", ROOT / "no such file")
