"""Programs run where some packages can't be imported, as in an environment that lacks them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.extras import EXTRA_OF

ROOT = Path(__file__).resolve().parents[1]
HIDING = """
import runpy, sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

HIDDEN = set(sys.argv[1].split(","))
sys.meta_path[:] = map(Hiding, sys.meta_path)
script = sys.argv[2]
del sys.argv[:2]
sys.path[0] = ROOT
if script == "-c":
    exec(compile(sys.argv[1], "-c", "exec"))
elif script == "-m":
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
else:
    runpy.run_path(script, run_name="__main__")
"""


def command(words: Sequence[object], *, but: Sequence[str] = (), root: Path = ROOT) -> list[str]:
    """The argv of a Python program without any package of an extra, except those of the extras in `but`. words: a
    script of the root (or -m module, or -c code) and its arguments. root: first on the path."""
    hidden = ",".join(module for module, extra in EXTRA_OF.items() if extra not in but)
    code = f"ROOT = {str(root)!r}\n{HIDING}"
    script, *rest = map(str, words)
    script = script if script.startswith("-") else str(root / script)
    return [sys.executable, "-c", code, hidden, script, *rest]


def environment(home: Path) -> dict[str, str]:
    """Without the caller's Python paths, and with an empty home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FACES_", "XDG_"))}
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def run(words: Sequence[object], home: Path, *, but: Sequence[str] = (), root: Path = ROOT, cwd: Path | None = None):
    """The finished program, its output as text."""
    return subprocess.run(
        command(words, but=but, root=root), cwd=cwd or home, env=environment(home), capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
